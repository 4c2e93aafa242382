"""Trees end where a model's own table of positions ends, and not where a call's limit would let them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertGenerationConfig,
    BertGenerationDecoder,
    CodeGenConfig,
    CodeGenForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LogitsProcessor,
    OPTConfig,
    OPTForCausalLM,
)

import racer
from racer import DecodeConfig
from racer.core.position_table import PositionWatch
from racer.core.support import probe
from racer.testing import HostileDrafter
from support.tiny_models import SMALL, VOCAB, tiny

TABLE, EOS = 64, 3
NO_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
BY_HEADS: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": TABLE}
BUILD = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**BY_HEADS, **NO_TOKENS)),
    "gptj": lambda: GPTJForCausalLM(GPTJConfig(**BY_HEADS, rotary_dim=4, **NO_TOKENS)),
    "codegen": lambda: CodeGenForCausalLM(CodeGenConfig(**BY_HEADS, n_ctx=TABLE, rotary_dim=4, **NO_TOKENS)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, ffn_dim=48, num_attention_heads=4,
            max_position_embeddings=TABLE, word_embed_proj_dim=32, **NO_TOKENS,
        )
    ),
    "bert": lambda: BertGenerationDecoder(
        BertGenerationConfig(**(SMALL | {"max_position_embeddings": TABLE}), is_decoder=True)
    ),
}  # fmt: skip


def build(name: str) -> Any:
    torch.manual_seed(4)
    model = BUILD[name]().double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


class EndsAt(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Lets a text have so many tokens."""

    racer_row_wise = True

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, EOS] = torch.inf if input_ids.shape[1] >= self.length else -torch.inf
        return scores


def prompts(rows: int, length: int = 50) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, VOCAB, (rows, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1:, :9] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", BUILD)
def test_the_table_is_found_by_what_is_looked_up_in_it(name: str) -> None:
    plan = probe(build(name)).plan
    assert plan is not None
    assert plan.positions == TABLE


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma3"])
def test_models_that_compute_their_positions_have_none(name: str) -> None:
    plan = probe(tiny(name)).plan
    assert plan is not None
    assert plan.positions is None


@pytest.mark.parametrize("compile", ["off", "static"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("end", [TABLE - 2, TABLE])
@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj"])
def test_a_text_that_ends_within_the_table_may_have_a_limit_beyond_it(
    name: str, end: int, rows: int, compile: str
) -> None:
    model = build(name)
    how = {"max_new_tokens": 200, "do_sample": False, "eos_token_id": EOS}
    plain = model.generate(**prompts(rows), **how, logits_processor=[EndsAt(end)])
    config = DecodeConfig(drafter=HostileDrafter(3, VOCAB), budget=14, compile=compile)
    out = racer.generate(
        model, config=config, **prompts(rows), **how, logits_processor=[EndsAt(end)], return_dict_in_generate=True
    )
    assert torch.equal(out.sequences, plain)
    assert max(out.racer_stats.nodes) > 4


def test_a_text_that_leaves_the_table_fails_as_it_does_plainly() -> None:
    model, how = build("gpt2"), {"max_new_tokens": 200, "do_sample": False}
    with pytest.raises(IndexError) as plain:
        model.generate(**prompts(1), **how)
    with pytest.raises(IndexError) as ours:
        racer.generate(model, config=DecodeConfig(drafter=HostileDrafter(3, VOCAB), budget=14), **prompts(1), **how)
    assert str(ours.value) == str(plain.value)


def test_only_what_is_asked_for_at_the_positions_counts() -> None:
    position = torch.tensor([[4, 5, 5, 6], [2, 3, 3, 4]])
    table, other = torch.randn(50, 3), torch.randn(10, 3)
    with PositionWatch(position) as watch:
        other[torch.tensor([[1, 5, 3, 2], [2, 3, 3, 4]])]
        other.index_select(0, torch.arange(4))
    assert watch.size is None
    with PositionWatch(position) as watch:
        torch.nn.functional.embedding(position + 2, table)
    assert watch.size == 48
    with PositionWatch(position) as watch:
        table[position[:1]]
        table.expand(2, -1, -1).gather(1, position[..., None].expand(-1, -1, 3))
    assert watch.size == 50
