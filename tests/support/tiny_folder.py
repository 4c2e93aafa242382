"""A tiny random model with a tiny real tokenizer, saved as any model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from racer.loading import models

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A tree is parents, nothing else; a drafter guesses, a verifier decides.",
    "Grüße aus Köln! Ça va? 你好世界。 Emoji 😀🎉 are four bytes each.",
    "def add(a, b):\n    return a + b\n",
]
TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def build_tokenizer() -> Any:
    """A real byte-level BPE, so small that most characters beyond ASCII take several tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|answer|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def build_folder(folder: Path, **changes: Any) -> Path:
    """A random Llama with that tokenizer, saved as any model is."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    with models.quiet():
        LlamaForCausalLM(LlamaConfig(**config | changes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
