"""A batch for the toy model, and ``racer.generate`` beside ``model.generate``."""

from __future__ import annotations

from typing import Any

import torch

import racer
from racer import DecodeConfig
from racer.testing import toy_model

VOCAB = 8
MODEL = toy_model(VOCAB)
IDS = torch.tensor([[3, 1, 2, 5], [0, 0, 4, 6]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
BATCH = {"input_ids": IDS, "attention_mask": MASK, "pad_token_id": 0}
GREEDY = DecodeConfig(drafter="logits", budget=12)


def same(**how: Any) -> torch.Tensor:
    """Greedy output, after checking that it is that of ``model.generate``."""
    how = {"do_sample": False} | how
    got = racer.generate(MODEL, config=GREEDY, **how)
    assert torch.equal(got, MODEL.generate(**how))
    return got


class Collects:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")
