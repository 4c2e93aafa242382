"""Grammar matchers keep a memory, and are first-class: exact in batches and with drafts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import xgrammar
from xgrammar.contrib.hf import LogitsProcessor

import racer
from racer import DecodeConfig
from racer.hf.processors import ProcessorPipeline
from racer.testing import HostileDrafter

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["fox", "dog", "tree"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["quick", "lazy"]}, "maxItems": 3},
        "tame": {"type": "boolean"},
    },
    "required": ["animal", "age", "tags", "tame"],
    "additionalProperties": False,
}
PROMPTS = ["The quick brown fox", "A tree", "the lazy dog sleeps on, and on", "def add(a, b):"]


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    from racer.loading.models import load

    loaded = load(str(folder), dtype="fp32", device="cpu")
    loaded.tokenizer.padding_side = "left"
    return loaded


def _xgrammar(loaded: Any) -> Any:
    """Makes processors."""
    info = xgrammar.TokenizerInfo.from_huggingface(loaded.tokenizer, vocab_size=loaded.model.config.vocab_size)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    grammar = compiler.compile_json_schema(json.dumps(SCHEMA), any_whitespace=False)
    return lambda: LogitsProcessor(grammar)


def _llguidance(loaded: Any) -> Any:
    """Makes processors, as the quickstart shows them."""
    page = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "llguidance" in block)
    space: dict[str, Any] = {}
    exec(code, space)
    schema = SCHEMA | {"x-guidance": {"whitespace_flexible": False}}
    return lambda: space["follows_schema"](loaded.model, loaded.tokenizer, schema)


@pytest.mark.parametrize("make", [_xgrammar, _llguidance])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_json_is_valid_and_that_of_plain_decoding(loaded: Any, make: Any, rows: int, do_sample: bool) -> None:
    fresh, tokenizer, model = make(loaded), loaded.tokenizer, loaded.model
    inputs = dict(tokenizer(PROMPTS[:rows], return_tensors="pt", padding=True))
    inputs.pop("token_type_ids", None)
    how = inputs | {
        "max_new_tokens": 90, "do_sample": do_sample, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip

    def ours(drafter: Any) -> Any:
        config = DecodeConfig(drafter=drafter, budget=12, seed=7)
        return racer.generate(model, config=config, logits_processor=[fresh()], **how)

    plain = ours("none") if do_sample else model.generate(logits_processor=[fresh()], **how)
    for drafter in ("racer", "retrieval", HostileDrafter(1, model.config.vocab_size)):
        assert ours(drafter).tolist() == plain.tolist()
    for row in plain[:, inputs["input_ids"].shape[1] :]:
        found = json.loads(tokenizer.decode(row, skip_special_tokens=True))
        assert set(found) == {"animal", "age", "tags", "tame"}
        assert found["animal"] in ("fox", "dog", "tree")


def test_a_grammar_of_each_row(loaded: Any) -> None:
    info = xgrammar.TokenizerInfo.from_huggingface(loaded.tokenizer, vocab_size=loaded.model.config.vocab_size)
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    grammars = [compiler.compile_regex(regex) for regex in ("(ab|ba){3,9}", "[0-9]{5}")]
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    how = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": 30, "do_sample": False,
        "eos_token_id": loaded.tokenizer.eos_token_id, "pad_token_id": loaded.tokenizer.pad_token_id,
    }  # fmt: skip
    got = racer.generate(loaded.model, input_ids=ids, logits_processor=[LogitsProcessor(grammars)], **how)
    expected = loaded.model.generate(ids, logits_processor=[LogitsProcessor(grammars)], **how)
    assert torch.equal(got, expected)
    assert set(loaded.tokenizer.decode(got[1, 3:], skip_special_tokens=True)) <= set("0123456789")
    with pytest.raises(racer.RacerError, match="made for 2 rows, and the batch has 3"):
        ProcessorPipeline([LogitsProcessor(grammars)], 3)
    used = LogitsProcessor(grammars)
    used(ids, torch.zeros(2, loaded.model.config.vocab_size))
    with pytest.raises(racer.RacerError, match="may keep a memory"):
        ProcessorPipeline([used], 2)
