"""Machine code that is kept on the disk is never older than what it was made from."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import racer.kernels.jit
from racer.kernels import undisturbed
from racer.kernels.jit import STAMP
from support.interrupts import interrupted_at, points

CODE = """
import sys
from outer import answer
print(answer(1))
"""
OUTER = """
from racer.kernels.jit import compiled
from inner import more

@compiled
def answer(x):
    return more(x)
"""
INNER = """
from racer.kernels.jit import compiled

@compiled
def more(x):
    return x + {added}
"""


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""
"""As a full disk: files can be made, but nothing written."""


def answered(folder: Path, kept: Path, before: str = "") -> int:
    ran = subprocess.run(
        [sys.executable, "-c", before + CODE],
        env=os.environ | {"NUMBA_CACHE_DIR": str(kept), "PYTHONPATH": str(folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_code_of_a_called_function_in_another_file_is_never_stale(tmp_path: Path) -> None:
    folder, kept = tmp_path / "sources", tmp_path / "kept"
    folder.mkdir()
    (folder / "outer.py").write_text(OUTER)
    for added in (1, 2, 1):
        (folder / "inner.py").write_text(INNER.format(added=added))
        os.utime(folder / "inner.py", (0, 0))  # as unpacked from an archive: older than all machine code
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # Python's own, which goes by times
        assert answered(folder, kept) == 1 + added
    kept_code = {path: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")}
    assert kept_code
    assert answered(folder, kept) == 2
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.nbc")} == kept_code, "compiled again for nothing"


def test_a_stamp_stands_beside_the_code(tmp_path: Path) -> None:
    racer.kernels.jit._forget_others(tmp_path, "one")
    assert (tmp_path / racer.kernels.jit.STAMP).read_text() == "one"
    (tmp_path / "f-1.py311.nbi").touch()
    racer.kernels.jit._forget_others(tmp_path, "two")
    assert [path.name for path in tmp_path.iterdir()] == [racer.kernels.jit.STAMP]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "outer.py").write_text(OUTER)
    (folder / "inner.py").write_text(INNER.format(added=1))
    return folder


def flip(data: bytes) -> bytes:
    """With one bit another, far behind all that is looked at first."""
    place = len(data) * 3 // 4
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "cut off early": lambda data: data[:20],
    "garbage": lambda data: bytes(range(256)) * 4,
    "one bit": flip,
    "numba's own": lambda data: pickle.dumps("0.0.1") + pickle.dumps(((1.0, 2), {})),
}


@pytest.mark.parametrize(
    "damaged",
    [
        [((".nbi",), "cut off"), ((".nbc",), "one bit")],
        pytest.param(
            [
                *(((suffix,), damage) for suffix in (".nbi", ".nbc") for damage in DAMAGES),
                ((".nbi", ".nbc"), "cut off"),
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["some", "all"],
)
def test_damaged_machine_code_is_made_anew(
    sources: Path, tmp_path: Path, damaged: list[tuple[tuple[str, ...], str]]
) -> None:
    kept = tmp_path / "kept"
    assert answered(sources, kept) == 2
    files = [path for path in kept.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert len(files) == 4
    sound = {path: path.read_bytes() for path in files}
    for suffixes, damage in damaged:
        for path in files:
            path.write_bytes(DAMAGES[damage](sound[path]) if path.suffix in suffixes else sound[path])
        assert answered(sources, kept) == 2, (suffixes, damage)
        for path in files:
            content = path.read_bytes()
            assert hashlib.sha256(content[32:]).digest() == content[:32], (path.name, damage)


@pytest.mark.parametrize(
    "place", ["code", *(pytest.param(place, marks=pytest.mark.slow) for place in ("stamp", "index"))]
)
def test_folders_where_files_belong_are_gone_around(sources: Path, tmp_path: Path, place: str) -> None:
    kept = tmp_path / "kept"
    assert answered(sources, kept) == 2
    for path in list(kept.rglob("*")):
        if path.suffix == {"index": ".nbi", "code": ".nbc"}.get(place) or (place == "stamp" and path.name == STAMP):
            path.unlink()
            (path / "inside").mkdir(parents=True)
    assert answered(sources, kept) == 2


@pytest.mark.slow
def test_where_nothing_can_be_written_code_is_made_in_every_process(sources: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert answered(sources, kept, LIMITED) == 2
    assert not [path for path in kept.rglob("*") if path.is_file()], "nothing half-written is left"
    assert answered(sources, kept) == 2
    assert list(kept.rglob("*.nbc"))
    assert answered(sources, kept, LIMITED) == 2
    (sources / "inner.py").write_text(INNER.format(added=5))
    assert answered(sources, kept, LIMITED) == 6, "stale code that cannot be replaced is not used"


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGPROF, signal.default_int_handler)

def interrupted(call, seconds):
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor's time, so that a busy machine changes nothing
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return False
"""
WHILE_COMPILING = """
from racer.kernels.jit import compiled

def fresh():
    space = {}
    exec("def inner(x):\\n total = 0\\n for i in range(x): total += i * i\\n return total", space)
    space["inner"] = compiled(space["inner"])
    exec("def outer(x): return inner(x) + 1", space)
    return compiled(space["outer"])

assert fresh()(4) == 15
hit = 0
for step in range(1, 12):
    function = fresh()
    hit += interrupted(lambda: function(4), step * 0.012)
    assert function(4) == 15, step
    assert fresh()(5) == 31, step
assert hit >= 4, hit
"""
IMPORTING = """
import time

start = time.process_time()
from racer.kernels import jit
print(time.process_time() - start)
"""
WHILE_IMPORTING = """
def load():
    from racer.kernels import jit

assert interrupted(load, {seconds})
from racer.kernels.jit import compiled
assert compiled(lambda x: x + 1)(1) == 2
"""
AT_THE_END = """
from racer.strategies.context.compile_ahead import context_kernels

assert interrupted(context_kernels, 1.5)
print("told")
"""


def ran(code: str, tmp_path: Path) -> str:
    places = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED + code]
    done = subprocess.run(command, env=places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_interrupt_while_compiling_spoils_no_later_call(tmp_path: Path) -> None:
    ran(WHILE_COMPILING, tmp_path)


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_an_interrupt_while_numba_is_imported_spoils_no_later_call(tmp_path: Path, share: float) -> None:
    seconds = share * float(ran(IMPORTING, tmp_path))
    ran(WHILE_IMPORTING.format(seconds=seconds), tmp_path)


def test_a_process_that_ends_while_compiling_ends_well(tmp_path: Path) -> None:
    assert ran(AT_THE_END, tmp_path) == "told\n"


def test_an_interrupt_at_any_point_of_waiting_spoils_nothing() -> None:
    files = (Path(undisturbed.__file__),)

    def attempt(place: int) -> bool:
        was = interrupted_at(place, lambda: undisturbed.undisturbed(len, "abc"), files, fine=True)
        assert undisturbed.undisturbed(len, "abcd") == 4
        return was

    assert len(list(points(attempt))) > 20
    with pytest.raises(ZeroDivisionError):
        undisturbed.undisturbed(lambda: 1 // 0)
