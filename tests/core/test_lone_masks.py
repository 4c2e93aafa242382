"""The mask of one node that sees all of the cache is what the way of trees makes of it, where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from racer.core.kv_cache import TreeCache
from racer.core.masks import CHUNKED, FULL, SLIDING, MaskPlan
from racer.core.model_runner import ModelRunner
from racer.core.support import probe
from racer.step.draft_tree import DraftTree

PLANS = st.builds(
    MaskPlan,
    st.none() | st.integers(1, 12),
    st.sampled_from([(), (FULL,), (FULL, SLIDING), (CHUNKED, FULL)]),
    st.none() | st.integers(1, 12),
)


@given(PLANS, st.integers(1, 16))
@example(MaskPlan(4), 4)
@example(MaskPlan(4), 5)
@example(MaskPlan(4, (FULL, SLIDING)), 5)
def test_a_lone_mask_is_that_of_a_tree_of_one_node(plan: MaskPlan, slots: int) -> None:
    lone = plan.of_lone(slots, torch.float32, torch.device("cpu"))
    position = torch.tensor([[slots - 1]])
    seen, places = torch.ones(1, 1, slots, dtype=torch.bool), torch.arange(slots)[None]
    built = plan.build(seen, position, places, torch.float32)
    if lone is None:
        assert plan.window is not None or plan.chunk is not None
        return
    pairs = zip(lone.items(), built.items(), strict=True) if isinstance(built, dict) else [((0, lone), (0, built))]
    for (name, ours), (other, theirs) in pairs:
        assert name == other
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("window", [5, 6, 7, 8])
def test_plain_steps_across_a_window_are_the_models_own(window: int) -> None:
    torch.manual_seed(0)
    config: Any = MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=window, max_position_embeddings=64,
    )  # fmt: skip
    model = MistralForCausalLM(config).double().eval()
    plan, text = probe(model).plan, torch.randint(50, (1, 12))
    assert plan is not None
    runner = ModelRunner(model, plan)
    with torch.no_grad():
        whole = model(text).logits
        cache: TreeCache = runner.open([0], 16)
        list(runner.prefill(text[:, :3], cache, 16, 1))
        for place in range(3, 12):
            node = DraftTree(text[:, place : place + 1], torch.tensor([[-1]]), torch.tensor([1]))
            torch.testing.assert_close(runner.forward(node, cache, 100)[:, 0], whole[:, place])
            cache.append(1)
