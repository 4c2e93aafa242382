"""A tiny model, and hypothesis profiles."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def model() -> Any:
    """A random Llama in float64: its greedy text loops soon, so that drafts are accepted."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).double().eval()
