"""Machine code is made before decoding, once per machine, and told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from racer.strategies.context import compile_ahead, history, learning
compile_ahead.direct = lambda function, *_: function  # numba looks at all types, and would compile for other ones
from racer import Racer
from racer.strategies.context.growth import grow
from racer.testing import check_drafter

Racer()
kernels = grow, learning.learn, history.append
before = [kernel.signatures for kernel in kernels]
check_drafter(Racer, max_examples=3)
assert [kernel.signatures for kernel in kernels] == before and all(len(types) == 1 for types in before[:2]), before
"""


def test_nothing_is_compiled_while_decoding_nor_twice_on_one_machine(tmp_path: Path) -> None:
    places = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for told in (1, 0):
        ran = subprocess.run([sys.executable, "-c", CODE], env=places, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("compiling the drafter") == told
