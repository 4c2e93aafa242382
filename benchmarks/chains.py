"""What chains are worth on a hybrid model: forced texts, drafted as `racer` drafted them for the embedded model.

    python benchmarks/chains.py                                      # on the built-in questions
    python benchmarks/chains.py --questions spec_bench/question.jsonl --tokens 96

A hybrid model of half a billion parameters that fits in no package is made with random weights, in the shape of
Qwen3.5: its steps cost what they cost, but it has nothing to say. So the embedded model decodes the questions, one
token a step, and at each token it is noted which chain `racer` drafted there, with which scores, and how much of it was
right. Then the hybrid model decodes the same texts, whatever its logits say, and is drafted such chains. Ways take
turns, so that a machine that is shared is as slow for one as for the other; the median of each way's ratios to plain
decoding of the same text counts.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

import racer
from budgets import Forced, decode
from racer.bench.questions import Question, draw, load_questions
from racer.budgets import Fixed
from racer.core.support import probe
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.step.best_path import best_path
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.base import Drafter
from racer.verifiers.base import Verifier
from racer.verifiers.exact import Greedy

DRAFTED = 32
"""Nodes of the trees whose best paths are noted."""
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""Of a Qwen3.5 with 24 layers, every fourth of them of full attention, and the embedded model's vocabulary."""


@attrs.frozen
class Chain:
    """What was drafted at a place of a text."""

    scores: tuple[float, ...]
    right: int
    """So many of its first nodes were right."""


@attrs.define(eq=False)
class Text:
    """A prompt and its answer, and the chain that was drafted after each place of the answer."""

    prompt: list[int]
    answer: list[int]
    chains: dict[int, Chain]
    """By the length of the text before."""


class OneByOne(Verifier):
    """Keeps the next token alone, and notes how much more of the best path was right."""

    def __init__(self) -> None:
        self._greedy = Greedy()
        self.drafted: dict[int, tuple[list[int], tuple[float, ...]]] = {}

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        if tree.score is not None and tree.width > 1:
            chain = best_path(tree, tree.width)
            assert chain.score is not None
            count = int(chain.count[0])
            tokens, scores = chain.tokens[0, 1:count].tolist(), tuple(chain.score[0, 1:count].tolist())
            self.drafted[len(view.requests[0].tokens)] = tokens, scores
        verdict = self._greedy.verify(view, tree, logits)
        first = logits[:, 0].argmax(-1)
        return Verdict(verdict.path, torch.ones_like(verdict.length), first)


class Noted(Drafter):
    """Drafts chains as they were noted, right as far as they were, wrong beyond."""

    name = "noted"

    def __init__(self, text: Text, vocab_size: int) -> None:
        self._whole, self._chains, self._vocab_size = text.prompt + text.answer, text.chains, vocab_size

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        place, node = len(request.tokens), 0
        chain = self._chains.get(place)
        if chain is None:
            return
        for depth, score in enumerate(chain.scores):
            at = place + depth
            true = self._whole[at] if at < len(self._whole) else 0
            token = true if depth < chain.right else (true + 1) % self._vocab_size
            added = tree.add(node, token, score=score)
            if added is None:
                return
            node = added


def written(loaded: LoadedModel, questions: Sequence[Question], new: int) -> list[Text]:
    """The first turns, answered by the embedded model, with what `racer` drafts at each token."""
    texts = []
    verifier = OneByOne()
    decoder = racer.Decoder(loaded.model, racer.DecodeConfig(budget=DRAFTED, verifier=verifier))
    for question in track(questions, "writing the answers", console=Console(stderr=True)):
        prompt = loaded.encode([{"role": "user", "content": question.turns[0]}])
        verifier.drafted.clear()
        answer, _ = decode(decoder, prompt, new, loaded.pad_token_id)
        whole = prompt["input_ids"][0].tolist() + answer
        chains = {}
        for place, (tokens, scores) in verifier.drafted.items():
            pairs = zip(tokens, whole[place:], strict=False)
            right = next(
                (n for n, (ours, true) in enumerate(pairs) if ours != true), min(len(tokens), len(whole) - place)
            )
            chains[place] = Chain(scores, right)
        texts.append(Text(prompt["input_ids"][0].tolist(), answer, chains))
    return texts


def hybrid(dtype: torch.dtype) -> Any:
    """The random hybrid model."""
    torch.manual_seed(0)
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SHAPE)).to(dtype).eval()


def seconds(model: Any, text: Text, drafter: Any, budget: Any) -> tuple[float, racer.DecodeStats]:
    """Of decoding a text's answer after the prompt, and how it came."""
    config = racer.DecodeConfig(drafter=drafter, budget=budget, verifier=Forced(text.prompt + text.answer))
    prompt = {"input_ids": torch.tensor([text.prompt])}
    answer, stats = decode(racer.Decoder(model, config), prompt, len(text.answer), None)
    assert answer == text.answer
    return stats.seconds - stats.milliseconds["prefill"] / 1e3, stats


WAYS: dict[str, Any] = {"auto": "auto", "8": 8}


def measure(model: Any, texts: Sequence[Text], ways: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """Ratios of each way to plain decoding, by text, prefill left out."""
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    accepted: dict[str, list[float]] = {way: [] for way in ways}
    plain: list[float] = []
    for text in track(texts, "decoding", console=Console(stderr=True)):
        before, _ = seconds(model, text, "none", Fixed(1))
        times = {}
        for way in ways:
            if way == "never right":
                wrong = Text(text.prompt, text.answer, {p: Chain(c.scores, 0) for p, c in text.chains.items()})
                times[way], of_way = seconds(model, wrong, Noted(wrong, vocab_size), "auto")
            else:
                times[way], of_way = seconds(model, text, Noted(text, vocab_size), WAYS[way])
            accepted[way].append(of_way.mean_accepted_tokens)
        after, _ = seconds(model, text, "none", Fixed(1))
        plain.append((before + after) / 2 / len(text.answer) * 1e3)
        for way in ways:
            ratios[way].append((before + after) / 2 / times[way])
    return {
        "plain_ms_per_token": statistics.median(plain),
        "ways": {
            way: {
                "speedup_median": statistics.median(ratios[way]),
                "speedup_least": min(ratios[way]),
                "mean_accepted_tokens": statistics.mean(accepted[way]),
                "speedups": ratios[way],
            }
            for way in ways
        },
    }


@click.command()
@click.option("--questions", multiple=True, help="Questions, as of `racer bench`; the built-in ones if none.")
@click.option("--limit", default=1, show_default=True, help="Questions of each group.")
@click.option("--texts", "most", default=5, show_default=True, help="Texts at most.")
@click.option("--tokens", default=64, show_default=True, help="New tokens of each answer.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="A JSON file for the figures.")
def main(questions: tuple[str, ...], limit: int, most: int, tokens: int, dtype: str, output: Path | None) -> None:
    """Speedup of chains on a random hybrid model, for forced texts of a recorded acceptance."""
    loaded = models.load(None, dtype="fp32")
    texts = written(loaded, draw(load_questions(questions or ("builtin",)), limit, 0)[:most], tokens)
    model = hybrid(torch.float32 if dtype == "fp32" else torch.bfloat16)
    support = probe(model)
    assert support.way == "chain", support.reason
    size = sum(weight.numel() for weight in model.parameters())
    found = measure(model, texts, [*WAYS, "never right"], SHAPE["vocab_size"])
    found |= {"parameters": size, "texts": len(texts), "tokens": tokens, "dtype": dtype}
    table = Table("way", "speedup (median)", "least", "tokens a step")
    for way, figures in found["ways"].items():
        shown = (figures["speedup_median"], figures["speedup_least"], figures["mean_accepted_tokens"])
        table.add_row(way, *(f"{number:.2f}" for number in shown))
    console = Console()
    console.print(f"{size / 1e6:.0f} million parameters, {len(texts)} texts of {tokens} tokens, {dtype}")
    console.print(f"plain decoding: {found['plain_ms_per_token']:.0f} ms a token")
    console.print(table)
    if output is not None:
        output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
