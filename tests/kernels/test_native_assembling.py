"""Machine code is made once and kept; where it cannot be kept or made, nothing breaks."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from llvmlite import ir

from racer.kernels.native import assembling
from racer.kernels.native.assembling import DIGEST, NotHere, assembled, team
from racer.kernels.native.emitting import BYTES, LONG, Emitter, long

needs_team = pytest.mark.skipif(not team(), reason="needs GNU's OpenMP")
WRITES = (ctypes.c_void_p, ctypes.c_int64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no failures noted."""
    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assembling, "_failures", {})
    return tmp_path / "cache" / "native"


class Adding:
    """Adds so much to a number; counts how often its code was written."""

    def __init__(self, much: int) -> None:
        self.much, self.written = much, 0

    def write(self) -> ir.Module:
        self.written += 1
        module = ir.Module()
        emit = Emitter(module, "adding", [BYTES, LONG], shared=True)
        emit.store(emit.build.add(emit.arguments[1], long(self.much)), emit.arguments[0], 0)
        emit.build.ret_void()
        return module

    def of(self, number: int) -> int:
        result = ctypes.c_int64()
        assembled("adding", WRITES, self.write)(ctypes.addressof(result), number)
        return result.value


@needs_team
def test_code_is_made_once(cache: Path) -> None:
    adding = Adding(3)
    assert adding.of(4) == 7
    assert adding.of(-5) == -2
    assert adding.written == 1
    (file,) = cache.iterdir()
    kept = file.read_bytes()
    assert hashlib.sha256(kept[DIGEST:]).digest() == kept[:DIGEST]
    assert Adding(9).of(4) == 7, "by its name it is the kept one"


@needs_team
@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "other", "folder"])
def test_damaged_code_is_made_anew(damage: str, cache: Path) -> None:
    assert Adding(3).of(4) == 7
    (file,) = cache.iterdir()
    kept = file.read_bytes()
    changed = bytes([*kept[:100], kept[100] ^ 4, *kept[101:]])
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "cut": kept[:-7], "bit": changed, "other": b"x" * 999}[damage])
    adding = Adding(3)
    assert adding.of(4) == 7
    assert adding.written == 1
    if damage != "folder":
        assert file.read_bytes() == kept, "whole again"
    assert len(list(cache.iterdir())) == 1, "and nothing lies beside it"


@needs_team
def test_code_of_another_processor_or_version_is_not_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Adding(3).of(4) == 7
    monkeypatch.setattr(assembling, "_maker", lambda: ("another", "one"))
    assert Adding(5).of(4) == 9
    assert len(list(cache.iterdir())) == 2


@needs_team
def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "file"))
    adding = Adding(3)
    assert [adding.of(4), adding.of(5)] == [7, 8]
    assert adding.written == 2


@needs_team
def test_nobodys_home_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACER_CACHE", "~nobody-of-this-name/cache")
    assert Adding(3).of(4) == 7


SCRIPT = """
import torch
from racer.core.products import Weight, as_it_lies
torch.manual_seed(0)
layer, rows = torch.nn.Linear(64, 50), torch.randn(9, 64)
with torch.no_grad():
    torch.testing.assert_close(as_it_lies(rows, Weight(layer.weight, layer.bias)), layer(rows))
print("right")
"""


@needs_team
def test_processes_may_make_the_same_at_once(cache: Path) -> None:
    ran = [subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=240)[0] for process in ran] == ["right\n"] * 2
    assert len(list(cache.iterdir())) == 1


@needs_team
def test_what_llvm_cannot_make_is_not_tried_again(cache: Path) -> None:
    tried = []

    def wrong() -> ir.Module:
        tried.append(1)
        module = ir.Module()
        Emitter(module, "wrong", [BYTES], shared=True)  # it has no end
        return module

    for _ in range(3):
        with pytest.raises(NotHere, match="LLVM cannot do it"):
            assembled("wrong", (ctypes.c_void_p,), wrong)
    assert len(tried) == 1
    with pytest.raises(NotHere, match="not in its own code"):
        assembled("nowhere", WRITES, Adding(1).write)
    gc.collect()
    assert Adding(3).of(4) == 7, "an engine that is given up takes nothing of others with it"


def test_without_threads_of_gnus_there_is_no_code(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "team", lambda: False)
    with pytest.raises(NotHere, match="OpenMP"):
        Adding(3).of(4)
    assert not cache.exists()


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_libraries_of_threads_are_no_team(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Any) -> Any:
        raise error("GOMP_parallel")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not team.__wrapped__()


@pytest.mark.usefixtures("cache")
@torch.no_grad()
def test_layers_are_multiplied_by_torch_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from racer.core.fast_linear import twin_of_layer
    from racer.core.few_rows import FewRows, Looks
    from racer.core.products import as_it_lies
    from racer.kernels.native.dense import dense_product

    monkeypatch.setattr(assembling, "team", lambda: False)
    dense_product.cache_clear()
    ways, layer = FewRows(), torch.nn.Linear(32, 16)
    twin = twin_of_layer(ways, None, Looks(), layer)
    assert twin is not None
    for _ in range(20):
        rows = torch.randn(4, 32)
        torch.testing.assert_close(twin(rows), layer(rows))
    assert as_it_lies not in ways._fastest.values()
    assert ways._fastest


def test_a_processor_that_llvm_does_not_know_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Any:
        raise RuntimeError("unknown")

    monkeypatch.setattr(assembling.binding, "get_host_cpu_features", unknown)
    assembling._features.cache_clear()
    try:
        assert not assembling.host_has("avx2")
        assert assembling.host_has()
    finally:
        assembling._features.cache_clear()
