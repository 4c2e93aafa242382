"""Fits where the learning of ``racer`` starts, on the package's own questions and models of several families.

    python benchmarks/fetch_models.py models
    python benchmarks/fit_start.py --model embedded --model models/gemma-3-270m-q4_k_m.gguf \\
        --model models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf   # writes the package's start: half an hour on 2 cores
    python benchmarks/fit_start.py --limit 4 --epochs 1 --output fitted.npz     # of the embedded model alone

All questions are decoded twice, with state kept and with fresh tables for every question, so that both situations are
known. Every candidate of every node on the text is a sample, also those that never got into a tree: a start that had
seen only its own favourites would overrate all others. The network is then trained on the samples, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import racer
from racer.bench.questions import Question, load_questions
from racer.errors import StateError
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.context.estimator import CALIBRATION_BINS, HIDDEN, MAX_LOG_ODDS, VECTOR_SIZE, Estimator
from racer.strategies.context.extraction import extract
from racer.strategies.context.features import CELLS
from racer.strategies.context.fitted import (
    FITTED,
    FITTED_WEIGHT,
    fitted_estimator,
    unfitted_estimator,
    write_fitted,
)
from racer.strategies.context.growth import GrowScratch
from racer.strategies.context.hashing import context_of
from racer.strategies.context.matches import follow, look_up

MIN_PROB = 1e-4
"""Candidates that every feature gives less than a quarter of it are no samples."""
BATCH = 4096


def _start() -> Estimator:
    """What to decode with: the package's own start, unless it belongs to other features."""
    try:
        return fitted_estimator()
    except StateError:
        return unfitted_estimator()


class Recording(racer.Racer):
    """Notes all candidates of each accepted node, and which one was right, before anything is learned from them.

    For batches of one row.
    """

    def __init__(self, cells: list[NDArray[np.int16]], right: list[NDArray[np.bool_]]) -> None:
        super().__init__(estimator=_start())
        self.cells, self.right = cells, right

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        host, request, entry = verdict.host, view.requests[0], self._open[view.requests[0].id]
        assert host is not None
        path = host.path[0, : host.length[0]]
        if entry.drafted:
            scratch, score = GrowScratch.of(len(path), self._top_k), entry.tree.score
            text = list(request.tokens[: view.places[0] + 1])
            tokens = [*host.tokens[0, path].tolist(), int(host.next_token[0])]
            for depth, node in enumerate(path):
                prob = score[node] / score[path[depth - 1]] if depth else 1.0
                if depth:
                    text.append(tokens[depth])
                    follow(scratch.matches, depth - 1, depth, tokens[depth], entry.row.text, self.memory.past)
                self._note(entry.row, scratch, text, depth, float(prob), tokens[depth + 1])
        super().observe(view, tree, verdict)

    def _note(self, row: Any, scratch: GrowScratch, text: list[int], depth: int, prob: float, then: int) -> None:
        context, found = context_of(text, len(text)), scratch.features.candidates
        look_up(scratch.matches, depth, context, row.text, row.singles, self.memory.past)
        extract(scratch.features, self.memory, row, scratch.matches, depth, context, depth, prob, 2**31 - 1, MIN_PROB)
        used = int(found.used[0])
        self.cells.append(found.cells[:used].copy())
        self.right.append(found.tokens[:used] == then)


def record(loaded: LoadedModel, questions: Sequence[Question], new: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Decode all questions warm, then cold: the cells of each candidate ``[M, FEATURES]``, who was right ``[M]``."""
    cells: list[NDArray[np.int16]] = []
    right: list[NDArray[np.bool_]] = []
    for cold in (False, True):
        drafter, lengths = Recording(cells, right), []
        for question in questions:
            drafter = Recording(cells, right) if cold else drafter
            decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=drafter, budget=64))
            output = decoder.generate(
                **loaded.encode([{"role": "user", "content": question.turns[0]}]),
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=loaded.pad_token_id,
                return_dict_in_generate=True,
            )
            lengths += output.racer_stats.accept_lengths[0]
        print(f"{'cold' if cold else 'warm'}: {sum(lengths) / len(lengths):.3f} mean accepted tokens", flush=True)
    return np.concatenate(cells), np.concatenate(right)


class Network(nn.Module):
    """The same as :mod:`racer.strategies.context.estimator`, for training."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(CELLS, VECTOR_SIZE)
        nn.init.normal_(self.vectors.weight, std=0.05)
        self.hidden, self.output = nn.Linear(VECTOR_SIZE, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Log-odds ``[M]`` of ``cells [M, FEATURES]``."""
        total = self.vectors(cells).sum(1)
        return (total[:, 0] + self.output(self.hidden(total).relu())[:, 0]).float()

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """As :class:`racer.strategies.context.estimator.Estimator` names them."""
        tensors = {
            "vectors": self.vectors.weight,
            "weights": self.hidden.weight,
            "biases": self.hidden.bias,
            "output": torch.cat([self.output.weight[0], self.output.bias]),
        }
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def train(cells: torch.Tensor, right: torch.Tensor, epochs: int, rate: float = 4e-3) -> Network:
    """Minimise the coding cost of ``right [M]``; the learning rate falls to nothing."""
    torch.manual_seed(0)
    network = Network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    batches = max(1, len(cells) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=epochs * batches)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(cells)).chunk(batches):
            loss = nn.functional.binary_cross_entropy_with_logits(network(cells[batch]), right[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        print(f"epoch {epoch + 1}: {total / float(right.sum()):.4f} nats for each right candidate", flush=True)
    return network


def calibration_table(log_odds: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """How often candidates of each estimate were right, worth at most ``FITTED_WEIGHT`` candidates."""
    plain = unfitted_estimator()
    places = (log_odds + MAX_LOG_ODDS) * CALIBRATION_BINS / (2 * MAX_LOG_ODDS)
    bins = np.clip(places.astype(int), 0, CALIBRATION_BINS - 1)
    seen = np.bincount(bins, minlength=CALIBRATION_BINS) + plain.calibration_seen
    hits = np.bincount(bins, weights=right, minlength=CALIBRATION_BINS) + plain.calibration_hits
    worth = np.minimum(seen, FITTED_WEIGHT)
    return {"calibration_hits": hits / seen * worth, "calibration_seen": worth}


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=("embedded",), show_default=True, help="A folder or a file.")
@click.option("--limit", default=None, type=int, help="Questions.  [default: all]")
@click.option("--epochs", default=8, show_default=True)
@click.option("--max-new-tokens", "new", default=96, show_default=True)
@click.option("--output", default=FITTED, type=click.Path(path_type=Path), show_default="the package's own file")
def main(names: tuple[str, ...], limit: int | None, epochs: int, new: int, output: Path) -> None:
    questions = list(load_questions(["builtin"]))
    if limit is not None:  # of all groups, not of the first ones
        questions = questions[:: max(1, len(questions) // limit)][:limit]
    found = [
        record(models.load(None if name == "embedded" else name, weights="bf16"), questions, new) for name in names
    ]
    cells, right = (np.concatenate(part) for part in zip(*found, strict=True))
    print(f"{len(right):,} candidates, {int(right.sum()):,} of them right", flush=True)
    wide = torch.from_numpy(cells.astype(np.int64))
    network = train(wide, torch.from_numpy(right.astype(np.float32)), epochs)
    with torch.no_grad():
        table = calibration_table(network(wide).numpy(), right)
    write_fitted(output, Estimator.of(**network.arrays(), **table))
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
