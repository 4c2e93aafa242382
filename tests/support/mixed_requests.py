"""A process of its own: requests of mixed shapes on one attached model; prints its resident MiB every hundred."""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import racer


def resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(requests: int) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    draw = random.Random(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = racer.attach(LlamaForCausalLM(config).eval())
    for number in range(1, requests + 1):
        rows, length, new = draw.choice([1, 1, 2, 3, 4, 8]), draw.randint(5, 300), draw.randint(5, 30)
        how = {"do_sample": True, "temperature": 0.8, "top_p": 0.9} if draw.random() < 0.4 else {"do_sample": False}
        ids = torch.randint(1, 500, (rows, length))
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **how)
        if number % 100 == 0:
            gc.collect()
            sys.stdout.write(f"{resident():.0f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
