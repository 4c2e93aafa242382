"""The five models of the generation tests, at toy size and in float64, with a tokenizer and prompts for them."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

PAD, BOS, EOS = 0, 1, 2
WORDS = "the cat sat on the mat, and the dog saw the cat; then that cat ran at the dog on the mat. "
NAMES = ("llama", "qwen2", "gemma3", "gpt2", "mistral")


@cache
def tokenizer() -> Any:
    """A character-level BPE: about a hundred tokens, some of them words."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789.,;")
    trainer = trainers.BpeTrainer(
        vocab_size=100, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([WORDS * 3, "a quick brown fox; jumps over lazy dogs 0123456789"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        padding_side="left",
    )  # fmt: skip


def _small() -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer()), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None,
    }  # fmt: skip


def _gpt2() -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer()), "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": None,
    }  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False))


def _gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    more: dict[str, Any] = {"head_dim": 8, "sliding_window": 6, "layer_types": layers, "tie_word_embeddings": False}
    return Gemma3ForCausalLM(Gemma3TextConfig(**_small(), **more))


BUILD: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_small())),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_small())),
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_small(), sliding_window=7)),
}


def build(name: str, seed: int = 7) -> Any:
    """A new model; equal arguments give equal weights."""
    torch.manual_seed(seed)
    model = BUILD[name]().double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)  # random weights at their usual scale barely attend; these do
    return model


@cache
def plain_model(name: str) -> Any:
    """Shared by tests: nobody may change it."""
    return build(name)


def prompts(rows: int = 4) -> dict[str, torch.Tensor]:
    """Prompts with repetitions, of 20, 6, 13 and 24 tokens; several are padded on the left."""
    texts = [("the cat sat ", 20), ("the mat", 6), ("then the dog then the dog ", 13), (WORDS, 24)][:rows]
    made = [(tokenizer()(text * 8)["input_ids"])[:length] for text, length in texts]
    width = max(map(len, made))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in made])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in made])
    return {"input_ids": ids, "attention_mask": mask}


def fresh(arguments: dict[str, Any]) -> dict[str, Any]:
    """A copy for one run: processors, criteria, streamers and caches remember; models are passed as they are."""
    models = {key: value for key, value in arguments.items() if isinstance(value, torch.nn.Module)}
    return copy.deepcopy({key: value for key, value in arguments.items() if key not in models}) | models
