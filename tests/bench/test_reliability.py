"""Reliability tables against counting node by node."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer.bench import reliability
from racer.step.verdict import HostVerdict


def verdict(parents: list[int], path: list[int]) -> HostVerdict:
    width = len(parents)
    board = np.zeros((1, width), dtype=np.int64)
    board[0, : len(path)] = path
    nothing = np.zeros((1, width, 0), dtype=np.int64)
    one = np.zeros(1, dtype=np.int64)
    return HostVerdict(
        length=np.array([len(path)]), next_token=one, path=board, tokens=np.arange(width)[None],
        parent=np.array([parents]), count=np.array([width]), source=np.zeros((1, width), dtype=np.int64), faults=one,
        top_ids=nothing, top_probs=None,
    )  # fmt: skip


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[float], list[int], list[int]]:
    """Scores that fall along each path, parents, and an accepted path."""
    width = draw(st.integers(2, 12))
    parents, scores = [0], [1.0]
    for node in range(1, width):
        parents.append(draw(st.integers(0, node - 1)))
        scores.append(scores[parents[-1]] * draw(st.floats(0, 1, width=32)))
    path = [0]
    while children := [n for n in range(1, width) if parents[n] == path[-1]]:
        if draw(st.booleans()):
            break
        path.append(draw(st.sampled_from(children)))
    return scores, parents, path


@given(st.lists(steps(), min_size=1, max_size=4))
def test_tables_count_every_node_once(drawn: list[tuple[list[float], list[int], list[int]]]) -> None:
    found = reliability.tables(
        [(np.array([scores], dtype=np.float32), verdict(parents, path)) for scores, parents, path in drawn]
    )
    drafted = sum(len(scores) - 1 for scores, _, _ in drawn)
    kept = sum(len(path) - 1 for _, _, path in drawn)
    visited = sum(parents[n] in path for _, parents, path in drawn for n in range(1, len(parents)))
    path_table, child_table = np.array(found["path"]), np.array(found["child"])
    assert path_table[:, 0].sum() == drafted
    assert child_table[:, 0].sum() == visited
    assert path_table[:, 2].sum() == child_table[:, 2].sum() == kept
    predicted = sum(np.float32(score) for scores, _, _ in drawn for score in scores[1:])
    assert path_table[:, 1].sum() == pytest.approx(float(predicted), abs=1e-4)


def test_a_calibrated_drafter_has_no_error_and_an_overconfident_one_has() -> None:
    half = [(np.array([[1.0, 0.5]]), verdict([0, 0], [0, 1])), (np.array([[1.0, 0.5]]), verdict([0, 0], [0]))]
    good = reliability.summary([reliability.tables(half)["path"]])
    assert good is not None
    assert good["ece"] == pytest.approx(0)
    assert good["bins"] == [{"low": 0.5, "high": 0.55, "count": 2, "predicted": 0.5, "accepted": 0.5}]
    sure = [(np.array([[1.0, 1.0]]), verdict([0, 0], [0]))]
    bad = reliability.summary([reliability.tables(sure)["path"]])
    assert bad is not None
    assert bad["ece"] == pytest.approx(1)
    assert reliability.summary([]) is None
