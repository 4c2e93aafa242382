"""The schema hash ties the fitted start and saved states to the features and keys that they were made with."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from racer.errors import StateError
from racer.strategies.context import (
    Racer,
    estimator,
    extraction,
    features,
    hash_table,
    hashing,
    history,
    matches,
    recent,
    running_means,
    top_k_table,
)
from racer.strategies.context.fitted import FITTED, fitted_estimator, read_fitted, unfitted_estimator, write_fitted
from racer.strategies.context.schema import schema_hash

MODULES = estimator, extraction, features, hash_table, hashing, history, matches, recent, running_means, top_k_table
DERIVED = {
    *("TOP_K", "MEAN", "MATCH", "VOTES", "NEAR", "FAR", "ALIGNED", "LAST_SEEN", "DEPTH", "PARENT_PROB"),
    *("FEATURES", "PROB_BINS", "LISTING_CELLS", "LENGTH_BINS", "CELLS", "MAX_PREDICTIONS", "MATCH_CELLS", "SHAPES"),
}
"""Constants that follow from others, which are in the schema."""
FREE = {"LEARNING_RATE", "CALIBRATION_DECAY", "MAX_PROB", "SIMD_WIDTH"}
"""How the estimator learns and computes: its arrays keep their meaning."""
CONSTANTS = [
    pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in MODULES
    for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign)
    for name in [node.targets[0].id]  # type: ignore[attr-defined]
    if name.isupper() and name not in DERIVED | FREE
]


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, dict):
        return {f"{name}!": count for name, count in value.items()}
    return value.copy() + 1 if isinstance(value, np.ndarray) else value + 1


@pytest.mark.parametrize(("module", "name"), CONSTANTS)
def test_any_other_constant_makes_another_hash(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema_hash()
    monkeypatch.setattr(module, name, other(getattr(module, name)))
    assert schema_hash() != before
    monkeypatch.undo()
    assert schema_hash() == before


def test_one_edge_one_count_and_the_order_of_features_are_in_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = features.PROB_EDGES.copy()
    edges[3] = np.nextafter(edges[3], np.float32(1))
    more, counts = features.CELL_COUNTS | {"depth": 9}, list(features.CELL_COUNTS.items())
    hashes = {schema_hash()}
    for name, value in (("PROB_EDGES", edges), ("CELL_COUNTS", more), ("CELL_COUNTS", dict(counts[::-1]))):
        with monkeypatch.context() as patch:
            patch.setattr(features, name, value)
            hashes.add(schema_hash())
    assert len(hashes) == 4


def test_features_stand_where_their_names_do() -> None:
    names = list(features.CELL_COUNTS)
    assert len(names) == features.FEATURES
    assert names[features.TOP_K] == "top-k after 1"
    assert names[features.MEAN] == "running mean 0"
    for name, at in {
        "match length": features.MATCH,
        "match votes": features.VOTES,
        "near": features.NEAR,
        "far": features.FAR,
        "aligned": features.ALIGNED,
        "last seen": features.LAST_SEEN,
        "depth": features.DEPTH,
        "parent probability": features.PARENT_PROB,
    }.items():
        assert names[at] == name


def test_a_start_is_read_as_it_was_written(tmp_path: Path) -> None:
    start = fitted_estimator()
    write_fitted(tmp_path / "fitted.npz", start)
    found = read_fitted(tmp_path / "fitted.npz")
    assert all(np.array_equal(one, other) for one, other in zip(found, start, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(read_fitted(FITTED), start, strict=True))


def test_a_start_of_other_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fitted.npz"
    with monkeypatch.context() as patch:
        patch.setattr(features, "DEPTH_BINS", 7)
        write_fitted(path, unfitted_estimator())
    with pytest.raises(StateError, match=r"other features.*run benchmarks/fit_start\.py"):
        read_fitted(path)
    np.savez(path, **unfitted_estimator()._asdict())  # of before there was a hash
    with pytest.raises(StateError, match=r"run benchmarks/fit_start\.py"):
        read_fitted(path)


def test_a_state_of_other_features_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, drafter = Racer(slots=8, history=32, top_k=4), Racer(slots=8, history=32, top_k=4)
    saved.memory.top_k.requests[0] = 7
    with monkeypatch.context() as patch:
        patch.setattr(running_means, "TO", running_means.TO + 1)
        saved.save(tmp_path / "state", "toy")
    before = [array.copy() for part in drafter.memory[:4] for array in part]
    with pytest.raises(StateError, match="with other features: delete it and start afresh"):
        drafter.load(tmp_path / "state", "toy")
    after = [array for part in drafter.memory[:4] for array in part]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    saved.save(tmp_path / "state", "toy")
    drafter.load(tmp_path / "state", "toy")
    assert drafter.memory.top_k.requests[0] == 7
