"""Files that are damaged, foreign or half written."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from racer.errors import ConfigError, RacerError
from racer_datastore import DatastoreError, Header, Index, write_index
from racer_datastore.format import HEADER_SIZE, write_whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_index(tmp_path / "x.idx", [[1, 2, 3, 4], [2, 3, 5]], bytes(range(32)))
    return tmp_path / "x.idx"


def test_the_header_comes_back(path: Path) -> None:
    header = Index(path).header
    assert Header.unpack(header.pack(), path) == header
    assert header.fingerprint == bytes(range(32))
    assert header.file_size == path.stat().st_size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(path: Path, place: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    damaged = path.with_name("damaged.idx")
    damaged.write_bytes(data)
    with pytest.raises(DatastoreError, match=r"damaged\.idx"):
        Index(damaged)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 10_000))
def test_a_file_that_was_cut_off_is_noticed_without_reading_it(path: Path, size: int) -> None:
    data = path.read_bytes()
    cut = path.with_name("cut.idx")
    cut.write_bytes(data[: size % len(data)])
    with pytest.raises(DatastoreError, match=r"damaged|not a datastore index"):
        Index(cut, verify=False)


def test_a_longer_file_is_noticed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DatastoreError, match="build it again"):
        Index(path, verify=False)


def test_another_version_is_named(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, 2)
    path.write_bytes(data)
    with pytest.raises(DatastoreError, match="version 2, this program reads 1"):
        Index(path)


def test_an_unverified_body_costs_an_exception_at_most(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_SIZE] + bytes([255]) * (len(data) - HEADER_SIZE))
    index = Index(path, verify=False)
    assert index.longest([1, 2, 3], 2, 16) == (0, range(0))
    rows = index.continuations(range(1), 0, samples=1, size=3)
    assert rows == [[index.header.separator] * 3]


@pytest.mark.parametrize("name", ["missing.idx", "."])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatastoreError, match="cannot read"):
        Index(tmp_path / name)


def test_errors_can_be_caught_as_racers() -> None:
    assert issubclass(DatastoreError, ConfigError)
    assert issubclass(DatastoreError, RacerError)


@pytest.mark.parametrize(
    ("texts", "depth", "message"),
    [
        ([], 16, "no text"),
        ([[], []], 16, "no text"),
        ([[1, -1]], 16, "outside"),
        ([[2**32 - 1]], 16, "outside"),
        ([[2**32]], 16, "outside"),
        ([[1]], 1, "depth"),
        ([[1]], 256, "depth"),
    ],
)
def test_what_cannot_be_indexed_is_refused(tmp_path: Path, texts: list[list[int]], depth: int, message: str) -> None:
    with pytest.raises(DatastoreError, match=message):
        write_index(tmp_path / "x.idx", texts, bytes(32), depth)
    assert not os.listdir(tmp_path)


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def parts() -> object:
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, parts())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_rewritten_file_does_not_disturb_its_readers(path: Path) -> None:
    index = Index(path)
    write_index(path, [[7, 8]], bytes(32))
    assert index.find([2, 3])
    assert Index(path).find([7, 8])
