"""One answer and its comparison, from the options to the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from racer.cli.decoding import Outcome, Plan, PromptRun
from racer.cli.options import Options
from racer.loading import models
from support.command import PROMPT


def test_no_default_of_transformers_sneaks_in() -> None:
    options = an_options(temperature=0.5)
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    assert options.sampling(True) == {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 0, **neutral}
    assert options.sampling(False)["do_sample"] is False


def an_options(**changes: Any) -> Options:
    given = {"prompt": PROMPT, "model": None, "drafter": "racer", "verifier": "auto", "budget": "auto", "seed": None}
    given |= {"max_new_tokens": 8, "temperature": None, "top_p": None, "top_k": None, "min_p": None, "dtype": "fp32"}
    given |= {"compile": "auto", "pack": "auto", "weights": None}
    return Options(**given | {"device": "cpu", "raw": False, "compare": False, "state": None, "json": False} | changes)


def test_a_difference_is_found_and_measured(folder: Path) -> None:
    loaded, options = models.load(str(folder), dtype="fp32", device="cpu"), an_options()
    run = PromptRun(options, Plan.of(options), loaded)
    plain = run.compare(Outcome([], None)).plain  # type: ignore[arg-type]
    changed = [*plain.tokens[:5], 7 if plain.tokens[5] != 7 else 8, *plain.tokens[6:]]
    comparison = run.compare(Outcome(changed, plain.stats))
    assert comparison.first_difference == 5
    ids = torch.cat([run.inputs["input_ids"], torch.tensor([plain.tokens[:5]])], dim=1)
    best = loaded.model(input_ids=ids).logits[0, -1].detach().topk(2)
    assert int(best.indices[0]) == plain.tokens[5]
    assert comparison.top2_gap == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-5)
