"""What becomes of threads that waited for work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TEAM = """
import os, sys, torch
from racer.engine.threads import let_go_of_team
from racer.kernels.native.assembling import team

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
before = threads()
torch.ones(4_000_000).exp()
working = threads()
let_go_of_team()
print(team(), working - before, threads() - before)
assert torch.ones(4_000_000).sum() == 4_000_000, "and there are new ones"
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux' list of threads")
def test_a_thread_that_lets_go_of_its_team_keeps_none() -> None:
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True, check=True)
    has_team, more, left = done.stdout.split()
    if has_team == "False":
        pytest.skip("torch runs no threads of GNU's OpenMP here")
    assert (int(more), int(left)) == (2, 0)
