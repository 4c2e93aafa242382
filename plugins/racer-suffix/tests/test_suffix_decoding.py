"""The installed plugin in the decode loop: found by name, and never a different token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import racer
from racer.discovery import Plugins, plugins
from racer_suffix import Suffix


def test_the_entry_point_offers_it_by_name() -> None:
    offer = plugins.resolve("drafter", "suffix")
    assert offer.origin.startswith("racer-suffix ")
    assert isinstance(offer.factory(), Suffix)


def test_asking_for_it_by_name_loads_nothing_else() -> None:
    found = Plugins()
    found.resolve("drafter", "suffix")
    assert [offer.name for offer in found.registry.offers()] == ["suffix"]


@pytest.mark.parametrize("budget", [1, 5, 64])
def test_a_batch_with_left_padding_is_decoded_as_by_generate(model: Any, budget: int) -> None:
    torch.manual_seed(1)
    ids = torch.randint(3, 61, (3, 12))
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 0, 0
    ids[2, :9], mask[2, :9] = 0, 0
    config = racer.DecodeConfig(drafter="suffix", budget=budget)
    inputs = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 40, "do_sample": False}
    for _ in range(2):  # the second time there is a history
        out = racer.generate(model, config=config, return_dict_in_generate=True, **inputs)
        assert out.sequences.tolist() == model.generate(**inputs).tolist()


def test_drafts_are_accepted(model: Any) -> None:
    decoder = racer.Decoder(model, racer.DecodeConfig(drafter=Suffix(), budget=16))
    inputs = {"input_ids": torch.tensor([[5, 9, 33, 12]]), "max_new_tokens": 60, "do_sample": False}
    plain = model.generate(**inputs)
    for _ in range(2):
        out = decoder.generate(return_dict_in_generate=True, **inputs)
        assert out.sequences.tolist() == plain.tolist()
    assert out.racer_stats.steps < out.racer_stats.new_tokens / 2  # the whole answer is in the history


def test_sampling_is_unchanged_by_the_drafter(model: Any) -> None:
    inputs = {"input_ids": torch.tensor([[5, 9, 33, 12]]), "max_new_tokens": 30, "do_sample": True, "temperature": 0.5}
    outputs = [
        racer.generate(model, config=racer.DecodeConfig(drafter=drafter, seed=3), **inputs).tolist()
        for drafter in ("none", "suffix", Suffix(min_match=1))
    ]
    assert outputs[0] == outputs[1] == outputs[2]
