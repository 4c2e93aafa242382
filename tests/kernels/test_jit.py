"""Machine code that is kept on the disk is never older than what it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import racer.kernels.jit

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


def answered(folder: Path, kept: Path) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"NUMBA_CACHE_DIR": str(kept), "PYTHONPATH": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
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
