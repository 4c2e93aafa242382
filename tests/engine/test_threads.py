"""What becomes of threads that waited for work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, time, torch, racer
from racer.engine.threads import let_go_of_team
from racer.kernels.native.assembling import team
from racer.testing.toy import toy_model

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
before = threads()
torch.ones(4_000_000).exp()
working = threads()
{act}
for _ in range(50):  # the system may list one that has ended for a moment
    if threads() - before == {left}:
        break
    time.sleep(0.1)
print(team(), working - before, threads() - before)
assert torch.ones(4_000_000).sum() == 4_000_000, "and there are new ones"
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux' list of threads")
@pytest.mark.parametrize(
    ("act", "left"),
    [("let_go_of_team()", 0), ("engine = racer.Engine(toy_model())", 1)],
    ids=["by itself", "by making an engine"],
)
def test_a_thread_that_lets_go_of_its_team_keeps_none(act: str, left: int) -> None:
    """An engine has a thread of its own, but no team before it works."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(act=act, left=left)], capture_output=True, text=True, check=True
    )
    has_team, *found = done.stdout.split()
    if has_team == "False":
        pytest.skip("torch runs no threads of GNU's OpenMP here")
    assert list(map(int, found)) == [2, left]
