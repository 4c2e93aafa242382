"""The drafter's state on the disk: whole or refused, and never half taken over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from racer import DecodeConfig, Decoder
from racer.errors import StateError
from racer.strategies.context import Racer, state
from racer.strategies.context.hash_table import IDS, NOTE, TAG
from racer.testing import decode, toy_model

SIZES = {"slots": 8, "history": 32, "top_k": 4}


@pytest.fixture(scope="module")
def taught() -> Racer:
    drafter = Racer(**SIZES)
    decode(Decoder(toy_model(20, 6.0), DecodeConfig(drafter=drafter, budget=12)), [[1, 2, 3], [4]], 40)
    return drafter


@pytest.fixture(scope="module")
def saved(taught: Racer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "it"
    taught.save(path, "toy")
    assert [file.name for file in path.parent.iterdir()] == ["it"]
    return path.read_bytes()


def arrays(drafter: Racer) -> list[np.ndarray]:
    return [array.copy() for part in drafter.memory[:4] for array in part]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_loaded_is_what_was_saved(taught: Racer, saved: bytes, tmp_path: Path) -> None:
    path, fresh = tmp_path / "it", Racer(**SIZES)
    path.write_bytes(saved)
    assert not same(arrays(fresh), arrays(taught))
    fresh.load(path, "toy")
    assert same(arrays(fresh), arrays(taught))
    model, lengths = toy_model(20, 6.0), []
    for drafter in (fresh, taught):
        _, stats = decode(Decoder(model, DecodeConfig(drafter=drafter, budget=12)), [[1, 2, 3]], 30)
        lengths.append(stats.accept_lengths)
    assert lengths[0] == lengths[1]


@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_refused_and_loses_nothing(saved: bytes, tmp_path: Path, at: float, bit: int, cut: bool) -> None:
    place = int(at * len(saved))
    damaged = saved[:place] if cut else saved[:place] + bytes([saved[place] ^ 1 << bit]) + saved[place + 1 :]
    path, drafter = tmp_path / "it", Racer(**SIZES)
    path.write_bytes(damaged)
    before = arrays(drafter)
    with pytest.raises(StateError):
        drafter.load(path, "toy")
    assert same(arrays(drafter), before)


@pytest.mark.parametrize(
    ("sizes", "fingerprint", "reason"),
    [(SIZES, "other", "another model or tokenizer"), (SIZES | {"slots": 16}, "toy", "another size")],
)
def test_another_model_or_size_is_refused(
    saved: bytes, tmp_path: Path, sizes: dict[str, int], fingerprint: str, reason: str
) -> None:
    path = tmp_path / "it"
    path.write_bytes(saved)
    with pytest.raises(StateError, match=reason):
        Racer(**sizes).load(path, fingerprint)


def test_another_version_is_refused(taught: Racer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state, "VERSION", "0")
        taught.save(tmp_path / "it", "toy")
    with pytest.raises(StateError, match=f"version 0, expected {state.VERSION}"):
        Racer(**SIZES).load(tmp_path / "it", "toy")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_file(
    taught: Racer, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "it"
    path.write_bytes(saved)

    def crash(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="disk full"):
        taught.save(path, "toy")
    assert path.read_bytes() == saved
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("top_k.words", TAG, -1),
        ("top_k.words", IDS, -7),
        ("means.words", NOTE, -1),
        ("past.older", 0, -1),
        ("past.latest", 0, -2),
        ("estimator.calibration_seen", 0, 0),
    ],
)
def test_crafted_values_are_refused(
    taught: Racer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, value: int
) -> None:
    honest = state._arrays

    def crafted(memory: Any) -> dict[str, np.ndarray]:
        found = {key: array.copy() for key, array in honest(memory).items()}
        found[name].flat[at] = value
        return found

    with monkeypatch.context() as patch:
        patch.setattr(state, "_arrays", crafted)
        taught.save(tmp_path / "it", "toy")
    with pytest.raises(StateError, match="damaged"):
        Racer(**SIZES).load(tmp_path / "it", "toy")


FULL = """
import resource, sys
from racer import Racer
drafter = Racer(slots=2, history=16)
drafter.save(sys.argv[1], "a model")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    drafter.save(sys.argv[1], "a model")
except OSError as error:
    assert sys.argv[1] in str(error), error
else:
    raise AssertionError("it was written")
drafter.load(sys.argv[1], "a model")
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "kept")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        Racer(**SIZES).save(tmp_path / "pipe", "a model")
    assert (tmp_path / "pipe").is_fifo()
