"""oneDNN keeps code for every number of rows that packed weights are used for: there must be few."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import racer
from racer import DecodeConfig
from racer.core import fast_linear
from racer.core.fast_linear import twin_of_layer
from racer.core.few_rows import FewRows, Looks
from racer.core.packed_sizes import worth_packing
from support.tiny_models import VOCAB, tiny

MIXED = Path(__file__).parents[1] / "support" / "mixed_requests.py"


def admitted(most: int) -> list[int]:
    return [count for count in range(1, most) if worth_packing(count)]


def test_few_numbers_of_rows_are_used() -> None:
    sizes = admitted(5000)
    assert len(sizes) == 76
    assert sizes[:64] == list(range(1, 65)), "trees of one text"
    assert {128, 192, 256} < set(sizes), "trees of batches"


def test_rows_of_a_batch_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(count: int) -> bool:
        asked.append(count)
        return worth_packing(count)

    monkeypatch.setattr(fast_linear, "worth_packing", noted)
    twin = twin_of_layer(FewRows(), None, Looks(), torch.nn.Linear(16, 4))
    assert twin is not None
    with torch.no_grad():
        for shape in ((4, 8, 16), (32, 16), (5, 13, 16), (1, 16)):
            twin(torch.randn(shape))
    assert asked == [32, 32, 65, 1]


def test_other_numbers_get_the_layers_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of all lengths go past the packed weights, with the same tokens."""
    seen: set[int] = set()

    def noted(count: int) -> bool:
        answer = worth_packing(count)
        if answer:
            seen.add(count)
        return answer

    monkeypatch.setattr(fast_linear, "worth_packing", noted)
    model = copy.deepcopy(tiny("llama")).float()
    for length in (3, 65, 70, 100):
        ids = torch.randint(2, VOCAB, (1, length), generator=torch.Generator().manual_seed(length))
        how = {"input_ids": ids, "do_sample": False, "max_new_tokens": 24}
        got = racer.generate(model, config=DecodeConfig(drafter="logits", budget=8, pack=True), **how)
        assert torch.equal(got, model.generate(**how))
    assert seen
    assert not seen & {65, 70, 100}


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_resident_memory_stays_flat_over_a_thousand_mixed_requests() -> None:
    """Each took 1.5 to 2 MiB, up to oneDNN's own limit of 1,024 pieces of code; now there are few to be made."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, str(MIXED), "1000"], capture_output=True, text=True, check=True, env=environment
    )
    sizes = [float(line) for line in ran.stdout.split()]  # MiB, every hundred requests
    assert max(sizes[2:]) - sizes[1] < 128, sizes
