"""A view of a step on which verifiers are tried by themselves."""

from __future__ import annotations

from typing import Any

import torch

from racer import StepView
from racer.hf.processors import ProcessorPipeline
from racer.step.request import Request


def make_view(root: int, seeds: list[int], vocab_size: int, processors: Any = ()) -> StepView:
    requests = tuple(Request(prompt=(0, root), seed=seed) for seed in seeds)
    roots = torch.full((len(seeds),), root)
    return StepView(
        requests=requests, active=(True,) * len(seeds), root=roots, position=torch.ones_like(roots),
        vocab_size=vocab_size, pipeline=ProcessorPipeline(processors, len(seeds)), do_sample=True,
    )  # fmt: skip
