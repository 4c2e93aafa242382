"""What a linear map between hidden states, learned while decoding, would add to ``racer``.

    python benchmarks/linear_head.py                                # the embedded model, on the built-in questions
    python benchmarks/linear_head.py --model FILE.gguf --limit 3 --output head.json
    python benchmarks/linear_head.py --variant recent --variant whole --every 256

The state after the next token is guessed from the state before it and the token's embedding, h' ~ R [h; e(x); 1], and
tokens are read off the model's own last layer. R is the ridge solution over all places scored so far, rejected nodes'
too. Down a tree each guess is made from the guess before it.

All variants decode one text together (benchmarks/shared_text.py), so that they are told apart by nothing but their
trees. The head's guesses stand beside twice as many nodes of ``racer`` as the tree may have. Where both list a token
the log-odds that ``racer`` gives it are moved, where the head alone does they start from a hundredth; by how much is
learned as decoding goes on, for each chance that the head gives. What a variant spends beyond ``racer`` is timed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from shared_text import Continuations, Row
from torch import Tensor

import racer
from racer.bench.questions import draw, load_questions
from racer.core.model_runner import ForwardPlan, ModelRunner
from racer.loading import models
from racer.step.draft_tree import DraftTree
from racer.step.request import Request, end

Floats = NDArray[np.float32]
RIDGE = 10.0
"""1 to 100 make no difference."""
GUESSES = 8
"""Tokens that are guessed after each node."""
RECENT = 4096
"""Tokens among which the ones are that are guessed, if not among all."""
CHANCES = np.array([0.01, 0.03, 0.06, 0.1, 0.2, 0.35, 0.5, 0.7])
KINDS = np.array([0.02, 0.2])
"""Of what ``racer`` gives a candidate; behind them stands what it does not list."""
UNLISTED = len(KINDS) + 1
FIRST_CHANCE = 0.01
"""Of what ``racer`` does not list."""
RATE = 0.05
"""At which it is learned what the head's word is worth."""
VARIANTS = ("recent", "whole", "half", "text")
"""``recent``: guesses among the tokens that came by lately. ``whole``: among all. ``half``: h in its main directions,
half as many. ``text``: R learns from the text alone, not from rejected nodes."""


@attrs.define(eq=False)
class WatchingRunner(ModelRunner):
    """Keeps the last layer's input of each pass."""

    hidden: Tensor = attrs.field(init=False)
    """``[1, N, d]``"""

    def _inputs(self, *arguments: Any) -> dict[str, Any]:
        return super()._inputs(*arguments) | {"output_hidden_states": True}

    def _output(self, call: Any, inputs: dict[str, Any]) -> Any:
        output = self.model(**inputs)
        self.hidden = output.hidden_states[-1].float()
        return output


class Text(Continuations):
    """With the hidden state of each continuation, and of the prompt."""

    def __init__(self, decoder: racer.Decoder, prompt: Tensor, limit: int) -> None:
        super().__init__(decoder, prompt, limit)
        self.states: dict[int, Floats] = {}
        seen = decoder.model(prompt, output_hidden_states=True)
        self.before: Floats = seen.hidden_states[-1][0].float().numpy()

    def make_runner(self, decoder: racer.Decoder, plan: ForwardPlan) -> ModelRunner:
        return WatchingRunner(decoder.model, plan)

    def scored(self, columns: dict[int, int]) -> None:
        assert isinstance(self.runner, WatchingRunner)
        for node, column in columns.items():
            self.states[node] = self.runner.hidden[0, column].numpy().copy()


class Ridge:
    """R, and the sums that it is made of."""

    def __init__(self, width: int, every: int, main: int | None) -> None:
        size = (main or width) + width + 1
        self._squares, self._products = np.zeros((size, size), np.float32), np.zeros((size, width), np.float32)
        self._spread = np.zeros((width, width), np.float32)
        self._main, self._every, self._fresh, self.places = main, every, 0, 0
        self.turn: Floats | None = None
        """``[width, main]`` main directions, if states are seen in these alone."""
        self.map: Floats | None = None
        """``[size, width]``"""
        self.length = 1.0
        """Of states, on average."""
        self._kept: list[tuple[Floats, Floats, Floats]] = []

    def add(self, before: Floats, embedded: Floats, after: Floats) -> None:
        """Places: states, embeddings of the next tokens, states there; ``[n, width]`` each."""
        if not len(before):
            return
        self.length += (float(np.linalg.norm(after, axis=1).mean()) - self.length) * min(1.0, len(after) / 256)
        if self._main and self.turn is None:
            self._kept.append((before, embedded, after))
            scaled = unit(before)
            self._spread += scaled.T @ scaled
            if sum(len(part) for part, *_ in self._kept) < 4 * before.shape[1]:
                return
            _, directions = np.linalg.eigh(self._spread)
            self.turn = np.ascontiguousarray(directions[:, -self._main :])
            kept, self._kept = self._kept, []
            before, embedded, after = (np.concatenate(part) for part in zip(*kept, strict=True))
        given = self.given(unit(before), embedded)
        self._squares += given.T @ given
        self._products += given.T @ unit(after)
        self.places += len(before)
        self._fresh += len(before)
        if self._fresh >= self._every or self.map is None:
            self._fresh = 0
            ridge = self._squares + RIDGE * np.eye(len(self._squares), dtype=np.float32)
            self.map = torch.cholesky_solve(
                torch.from_numpy(self._products), torch.linalg.cholesky(torch.from_numpy(ridge))
            ).numpy()

    def given(self, before: Floats, embedded: Floats) -> Floats:
        seen = before if self.turn is None else before @ self.turn
        return np.concatenate([seen, embedded, np.ones((len(seen), 1), np.float32)], 1)

    def guess(self, before: Floats, embedded: Floats) -> Floats:
        """States ``[n, width]`` after tokens, of unit states before them."""
        assert self.map is not None
        return unit(self.given(before, embedded) @ self.map)


def unit(rows: Floats) -> Floats:
    """Rows of length sqrt(width)."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (rows.shape[1] ** 0.5 / np.maximum(lengths, 1e-6)), np.float32)


@attrs.define(eq=False)
class Head:
    """The linear head of one variant, for all questions."""

    variant: str
    embedding: Floats
    """``[V, width]`` of length sqrt(width)."""
    last_layer: Floats
    """``[V, width]``"""
    ridge: Ridge
    seen: NDArray[np.int64]
    """When each token came by last."""
    worth: NDArray[np.float64] = attrs.field(factory=lambda: np.zeros((UNLISTED + 1, len(CHANCES) + 2)))
    """Log-odds that are added: by kind of candidate, and by the chance that the head gives it (0: none)."""
    clock: int = 0
    recent: NDArray[np.int64] | None = None
    recent_layer: Floats | None = None
    seconds: dict[str, float] = attrs.field(factory=lambda: defaultdict(float))

    @classmethod
    def of(cls, model: Any, variant: str, every: int) -> Head:
        embedding = model.get_input_embeddings().weight.detach().float().numpy()
        last = model.get_output_embeddings().weight.detach().float().numpy()
        width = last.shape[1]
        ridge = Ridge(width, every, width // 2 if variant == "half" else None)
        return cls(variant, unit(embedding), last, ridge, np.zeros(len(last), np.int64))

    def chance(self, said: float, cell: tuple[int, int]) -> float:
        """Of a candidate to which ``racer`` gives ``said``."""
        said = min(max(said, 1e-4), 0.995)
        return float(1 / (1 + (1 - said) / said * np.exp(-self.worth[cell])))

    def note(self, ids: NDArray[np.int64]) -> None:
        self.clock += 1
        self.seen[ids.reshape(-1)] = self.clock

    def top(self, states: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The likeliest tokens ``[n, GUESSES]`` after guessed states, and their chances."""
        layer = self.last_layer
        if self.variant != "whole":
            if self.recent is None or self.clock % 16 == 0:
                self.recent = np.sort(np.argpartition(-self.seen, RECENT)[:RECENT])
                self.recent_layer = self.last_layer[self.recent]
            assert self.recent_layer is not None
            layer = self.recent_layer
        scale = self.ridge.length / states.shape[1] ** 0.5
        logits = torch.from_numpy(states * scale) @ torch.from_numpy(layer).T
        chances, ids = logits.softmax(-1).topk(GUESSES)
        found = ids.numpy()
        return (found if self.variant == "whole" or self.recent is None else self.recent[found]), chances.numpy()


@attrs.define(eq=False)
class HeadedRow(Row):
    """A row whose trees have guesses of a head among them."""

    head: Head | None = None
    budget: int = 0
    state: Any = None
    """The state that the root came from."""
    own: list[int] = attrs.field(factory=list)
    """Nodes of ``racer``'s own tree that are in the last one."""
    asked: list[Any] = attrs.field(factory=list)
    """Candidates: column of the node, token, and their cell."""

    def draft(self, shared: Continuations, budget: int) -> list[int]:
        head, own = self.head, self.budget
        self.asked, self.own = [], []
        if head is None or head.ridge.map is None or self.request.remaining <= 1:
            return super().draft(shared, own)
        self.view = self._view()
        tree = self.drafter.draft(self.view, 2 * own)
        start = time.perf_counter()
        self.tree = self._with_guesses(tree, head, own)
        head.seconds["draft"] += time.perf_counter() - start
        self.nodes = [self.node]
        columns = zip(self.tree.parent[0, 1:].tolist(), self.tree.tokens[0, 1:].tolist(), strict=True)
        for parent, token in columns:
            self.nodes.append(shared.child(self.nodes[parent], token))
        return self.nodes

    def _with_guesses(self, tree: DraftTree, head: Head, budget: int) -> DraftTree:
        """The best ``budget`` nodes of a tree and of guesses after its nodes, by chances that heed both."""
        tokens, parent = tree.tokens[0].tolist(), tree.parent[0].tolist()
        assert tree.score is not None
        said, count = tree.score[0].tolist(), int(tree.count[0])
        said[0], score, states = 1.0, [1.0] * count, {}
        children: dict[int, list[int]] = defaultdict(list)
        for i in range(1, count):
            children[parent[i]].append(i)
        least = sorted(said[:count])[-min(budget, count)] / 4
        level = [0]
        while level:
            before = np.stack([self.state if i == 0 else states[parent[i]] for i in level])
            found = head.ridge.guess(before, head.embedding[[tokens[i] for i in level]])
            states |= dict(zip(level, found, strict=True))
            behind: list[int] = []
            for i, own_ids, own_chances in zip(level, *map(np.ndarray.tolist, head.top(found)), strict=True):
                guesses = dict(zip(own_ids, np.searchsorted(CHANCES, own_chances) + 1, strict=True))
                for child in children[i]:
                    given = said[child] / said[i]
                    cell = int(np.searchsorted(KINDS, given)), int(guesses.pop(tokens[child], 0))
                    score[child] = score[i] * head.chance(given, cell)
                    self.asked.append((i, tokens[child], given, cell))
                for token, bin_ in guesses.items():
                    cell = UNLISTED, int(bin_)
                    tokens.append(token)
                    parent.append(i)
                    score.append(score[i] * head.chance(FIRST_CHANCE, cell))
                    said.append(1.0)
                    children[i].append(len(tokens) - 1)
                    self.asked.append((i, token, FIRST_CHANCE, cell))
                behind += children[i]
            level = [i for i in behind if score[i] > least][: max(0, 4 * budget - len(states))]
            rest = [i for i in behind if i not in set(level)]
            while rest:  # below them nobody asks the head
                i = rest.pop()
                for child in children[i]:
                    score[child] = score[i] * said[child] / said[i]
                    rest.append(child)
        order = sorted((i for i in range(len(tokens)) if score[i] > 0), key=lambda i: (-score[i], i))[:budget]
        kept = sorted(order, key=lambda i: (i >= count, i))
        place = {node: column for column, node in enumerate(kept)}
        self.asked = [(place[i], *rest) for i, *rest in self.asked if i in place]
        self.own = [i for i in kept if i < count]
        return attrs.evolve(
            tree,
            tokens=torch.tensor([[tokens[i] for i in kept]]),
            parent=torch.tensor([[-1, *(place[parent[i]] for i in kept[1:])]]),
            count=torch.tensor([len(kept)]),
            score=torch.tensor([[score[i] for i in kept]], dtype=torch.float64),
            source=torch.zeros(1, len(kept), dtype=torch.long),
        )

    def learn(self, shared: Text) -> None:
        """After a step: what was right, and the places that it scored."""
        head = self.head
        right = {column: shared.best(node) for column, node in enumerate(self.nodes)}
        chain = set(self.kept_path)
        if head is not None:
            start = time.perf_counter()
            for column, token, given, cell in self.asked:
                if column in chain:
                    head.worth[cell] += RATE * ((right[column] == token) - head.chance(given, cell))
            parents = self.tree.parent[0].tolist()
            own = [
                (shared.states[self.nodes[parents[c]]], self.tree.tokens[0, c].item(), shared.states[self.nodes[c]])
                for c in range(1, len(self.nodes))
                if head.variant != "text" or c in chain
            ]
            root = (self.raw_state, int(self.tree.tokens[0, 0]), shared.states[self.nodes[0]])
            before, ids, after = zip(root, *own, strict=True)
            head.ridge.add(np.stack(before), head.embedding[list(ids)], np.stack(after))
            head.note(np.stack([shared.known[node][0][:8] for node in self.nodes]))
            head.seconds["observe"] += time.perf_counter() - start
        self.raw_state = shared.states[self.nodes[self.kept_path[-1]]]
        self.state = unit(self.raw_state[None])[0]

    raw_state: Any = None
    kept_path: list[int] = attrs.field(factory=list)

    def _observe(self, path: Any, then: int, ids: Any, probs: Any) -> None:
        self.kept_path = list(path)
        super()._observe(path, then, ids, probs)

    def begin(self, shared: Text, prompt: list[int]) -> None:
        """The prompt's own places."""
        if self.head is not None:
            before = shared.before
            self.head.ridge.add(before[:-1], self.head.embedding[prompt[1:]], before[1:])
            self.head.note(np.array(prompt))
        self.raw_state = shared.before[-1]
        self.state = unit(self.raw_state[None])[0]


@torch.no_grad()
def decode(
    decoder: racer.Decoder, prompt: Tensor, rows_of: Any, limit: int, ends: frozenset[int]
) -> tuple[int, list[int]]:
    """As :func:`shared_text.decode`; rows have budgets of their own."""
    shared = Text(decoder, prompt, limit)
    rows: list[HeadedRow] = rows_of(Request, decoder.support.vocab_size)
    for row in rows:
        row.drafter.opened(row.request)
        row.read_prompt(shared.prompt, *shared.prompt_top)
        row.begin(shared, prompt[0].tolist())
        if row.request.tokens[-1] in ends:
            end(row.request)
    while active := [row for row in rows if not row.request.done]:
        shared.commit(min(active, key=lambda row: len(row.request.tokens)).node)
        shared.score([node for row in active for node in row.draft(shared, 0)])
        for row in active:
            row.keep(shared, ends)
            row.learn(shared)
    for row in rows:
        row.drafter.closed(row.request)
    [emitted] = {tuple(row.request.emitted) for row in rows}
    return len(emitted) - 1, [row.steps for row in rows]


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--model", help="A folder or a .gguf file.  [default: the embedded one]")
@click.option("--questions", multiple=True, default=("builtin",), show_default=True)
@click.option("--limit", default=2, show_default=True, help="Questions of each group.")
@click.option("--budget", "budgets", multiple=True, type=int, default=(16, 24, 64), show_default=True)
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS), default=("recent",))
@click.option("--every", default=256, show_default=True, help="Places after which R is solved again.")
@click.option("--max-new-tokens", "new", default=96, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    model: str | None,
    questions: tuple[str, ...],
    limit: int,
    budgets: tuple[int, ...],
    variants: tuple[str, ...],
    every: int,
    new: int,
    output: Path | None,
) -> None:
    loaded = models.load(model, dtype="fp32", device="cpu")
    last = loaded.model.generation_config.eos_token_id
    ends = frozenset(last if isinstance(last, list) else [] if last is None else [last])
    decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter="racer", budget=64))
    heads = {(name, size): Head.of(loaded.model, name, every) for name in variants for size in budgets}
    kinds = [(name, size) for size in budgets for name in ("racer", *variants)]
    drafters = [racer.Racer() for _ in kinds]
    steps: dict[str, list[int]] = defaultdict(lambda: [0] * len(kinds))
    tokens: dict[str, int] = defaultdict(int)
    for question in track(draw(load_questions(questions), limit, 0), "questions", console=Console(stderr=True)):
        prompt = loaded.encode([{"role": "user", "content": question.turns[0]}])["input_ids"]

        def rows_of(request: Any, vocab: int, prompt: Tensor = prompt) -> list[HeadedRow]:
            made = []
            for drafter, kind in zip(drafters, kinds, strict=True):
                own = request(tuple(prompt[0].tolist()), limit=new)
                made.append(HeadedRow(drafter, own, vocab, head=heads.get(kind), budget=kind[1]))
            return made

        given, spent = decode(decoder, prompt, rows_of, new, ends)
        for name in (question.group, "all"):
            tokens[name] += given
            steps[name] = [a + b for a, b in zip(steps[name], spent, strict=True)]
    report: dict[str, Any] = {"model": loaded.name, "every": every, "tokens": dict(tokens), "figures": []}
    table = Table("", *(f"{name} {size}" for name, size in kinds), box=None, header_style="bold")
    for group, counted in steps.items():
        table.add_row(group, *(f"{tokens[group] / max(count, 1):.2f}" for count in counted))
    for (name, size), counted in zip(kinds, steps["all"], strict=True):
        head = heads.get((name, size))
        cost = {} if head is None else {part: spent / counted * 1e3 for part, spent in head.seconds.items()}
        groups = {group: tokens[group] / found[kinds.index((name, size))] for group, found in steps.items()}
        report["figures"].append({"variant": name, "nodes": size, "mean accepted": groups, "ms a step": cost})
    costs = [sum(part["ms a step"].values()) for part in report["figures"]]
    table.add_row("ms a step", *("" if not cost else f"{cost:.1f}" for cost in costs))
    Console(highlight=False, width=200).print(table)
    if output:
        output.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
