"""Asks every method about every turn of every question, in a rotating order, so that drift of the machine hits all."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from racer import vocab
from racer.bench.answering import Answering
from racer.bench.meters import PeakMemory
from racer.bench.methods import Method
from racer.bench.ours import Racer
from racer.bench.peers import Transformers
from racer.bench.questions import Question
from racer.bench.trials import Journal, Key, Trial
from racer.errors import ConfigError, first_line
from racer.loaded import LoadedModel, first_difference, sampling_arguments, top2_gap
from racer.pipeline import ProcessorPipeline

Talk = list[dict[str, str]]
"""Messages as chat templates take them."""

WARM_UP_TOKENS = 12
WARM_UP_PROMPT = "Count from one to ten, and then back."


@attrs.frozen(kw_only=True)
class Settings:
    """How all methods are to answer."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 1
    cold: bool = False
    """Forget what was learned before every prompt."""

    @property
    def sample(self) -> bool:
        return self.temperature > 0

    def arguments(self) -> dict[str, Any]:
        """For ``generate``."""
        return sampling_arguments(self.sample, self.temperature, self.top_p)


@attrs.frozen
class _Asked:
    """One turn of one batch of questions."""

    number: int
    turn: int
    group: str
    rows: list[int]
    """The questions that have this turn; none where the plain answer to the turn before is missing."""
    talks: list[Talk]
    """The conversation of each row so far."""

    def key(self, method: Method) -> Key:
        return self.number, self.turn, method.name


@attrs.define(eq=False)
class Bench:
    """One run over ``questions``. What the journal has already is not done again."""

    loaded: LoadedModel
    methods: Sequence[Method]
    questions: Sequence[Question]
    settings: Settings
    journal: Journal
    told: Callable[[Trial], None] = lambda trial: None
    """Called with every new trial."""
    _answering: dict[str, Answering] = attrs.field(init=False, factory=dict)

    def batches(self) -> list[list[int]]:
        """Indices of questions that are asked together: neighbours of one group."""
        groups: dict[str, list[int]] = defaultdict(list)
        for index, question in enumerate(self.questions):
            groups[question.group].append(index)
        size = self.settings.batch_size
        return [rows[i : i + size] for rows in groups.values() for i in range(0, len(rows), size)]

    def total(self) -> int:
        """Trials of the whole run."""
        turns = sum(max(len(self.questions[row].turns) for row in batch) for batch in self.batches())
        return turns * len(self.methods)

    def run(self) -> None:
        """Measure whatever is missing in the journal.

        :raises UnsupportedModel: the model cannot be verified with trees.
        """
        missing = [(n, batch) for n, batch in enumerate(self.batches()) if not self._complete(n, batch)]
        if missing:
            self._warm_up()
        for number, batch in missing:
            self._converse(number, batch)

    def _complete(self, number: int, batch: list[int]) -> bool:
        turns = max(len(self.questions[row].turns) for row in batch)
        return all(
            (number, turn, method.name) in self.journal.trials for turn in range(turns) for method in self.methods
        )

    def _warm_up(self) -> None:
        """What first calls cost counts for nobody, and what they teach is forgotten."""
        prompt = self.loaded.encode([{"role": "user", "content": WARM_UP_PROMPT}])
        inputs = {name: part.expand(self.settings.batch_size, -1) for name, part in prompt.items()}
        for method in self.methods:
            answering = self._make(method)
            with suppress(Exception):  # who fails here fails on the questions too, and there it is written down
                answering.answer(inputs, WARM_UP_TOKENS, self.settings.seed)
            answering.forget()
            self._answering[method.name] = answering

    def _make(self, method: Method) -> Answering:
        if method.drafter is None:
            return Transformers(self.loaded, self.settings.arguments(), method.lookup)
        return Racer(self.loaded, self.settings.arguments(), method.config())

    # -- one batch of questions -------------------------------------------------------------------------------------

    def _converse(self, number: int, batch: list[int]) -> None:
        """All turns. Everybody is asked the same: the conversation goes on from the plain answers."""
        talks: dict[int, Talk] = {row: [] for row in batch}
        for turn in range(max(len(self.questions[row].turns) for row in batch)):
            rows = [row for row in talks if turn < len(self.questions[row].turns)]
            for row in rows:
                talks[row].append({"role": "user", "content": self.questions[row].turns[turn]})
            asked = _Asked(number, turn, self.questions[batch[0]].group, rows, [talks[row] for row in rows])
            start = (number + turn) % len(self.methods)
            for method in (*self.methods[start:], *self.methods[:start]):
                if asked.key(method) not in self.journal.trials:
                    self._try(asked, method)
            self._look_closer(asked)
            plain = self.journal.trials[number, turn, "none"]
            if plain.error:
                talks = {row: talk for row, talk in talks.items() if row not in rows}
            for row, text in zip(rows, plain.texts, strict=False):
                talks[row].append({"role": "assistant", "content": text})

    def _try(self, asked: _Asked, method: Method) -> None:
        """Measure one method on one turn; whatever fails is written down, and the run goes on."""
        common: dict[str, Any] = {
            "number": asked.number, "turn": asked.turn, "method": method.name, "group": asked.group, "rows": asked.rows,
        }  # fmt: skip
        prompts: list[int] = []
        try:
            if not asked.rows:
                raise ConfigError("the plain answer to the turn before is missing")
            inputs, prompts = self._inputs(asked.talks)
            answering = self._answering[method.name]
            if self.settings.cold:
                answering.forget()
            with PeakMemory(self.loaded.model.device) as memory:
                measured = answering.answer(inputs, self.settings.max_new_tokens, self._seed(asked))
            common |= {
                "measured": measured,
                "texts": self.loaded.tokenizer.batch_decode(measured.tokens, skip_special_tokens=True),
                "peak_bytes": memory.bytes,
            }
        except Exception as error:  # models and plugins fail in their own ways
            common["error"] = f"{type(error).__name__}: {first_line(error)}"
        trial = Trial(**common, prompt_tokens=prompts, time=time.time())
        self.journal.add(trial)
        self.told(trial)

    def _inputs(self, talks: Sequence[Talk]) -> tuple[dict[str, Tensor], list[int]]:
        """Conversations as a batch, padded on the left, and their lengths in tokens."""
        encoded = [self.loaded.encode(talk) for talk in talks]
        lengths = [part["input_ids"].shape[1] for part in encoded]
        for length in lengths:
            room = self.loaded.room(length)
            if room is not None and room < self.settings.max_new_tokens:
                raise ConfigError(
                    f"the prompt has {length} tokens and leaves {room} of the model's context, fewer than the "
                    f"{self.settings.max_new_tokens} new tokens asked for"
                )
        fills = {"input_ids": self.loaded.pad_token_id or 0, "attention_mask": 0}
        batch = {
            name: torch.cat(
                [
                    torch.nn.functional.pad(part[name], (max(lengths) - length, 0), value=fill)
                    for part, length in zip(encoded, lengths, strict=True)
                ]
            )
            for name, fill in fills.items()
        }
        return batch, lengths

    def _seed(self, asked: _Asked) -> int:
        """The same for all methods, another for every prompt."""
        text = f"{self.settings.seed} {asked.number} {asked.turn}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    # -- where answers part -----------------------------------------------------------------------------------------

    def _look_closer(self, asked: _Asked) -> None:
        """For answers that differ from the plain one: how close the plain model's call was."""
        plain = self.journal.trials[asked.number, asked.turn, "none"].measured
        for method in self.methods:
            key = asked.key(method)
            measured = self.journal.trials[key].measured
            if plain is None or measured is None or key in self.journal.gaps:
                continue
            if self.settings.sample and method.drafter is None:
                continue  # other noise, so there is nothing to compare
            parted = [first_difference(*pair) for pair in zip(measured.tokens, plain.tokens, strict=True)]
            if any(place is not None for place in parted):
                seeds = plain.seeds or [0] * len(parted)
                gaps = [
                    None if place is None else self._gap(talk, tokens[:place], seed)
                    for talk, tokens, place, seed in zip(asked.talks, plain.tokens, parted, seeds, strict=True)
                ]
                self.journal.add_gaps(key, gaps)

    def _gap(self, talk: Talk, common: list[int], seed: int) -> float | None:
        gap = top2_gap(self.choice_scores(talk, common, seed))
        return gap if gap < float("inf") else None  # infinite where top-p left one token

    def choice_scores(self, talk: Talk, common: list[int], seed: int) -> Tensor:
        """``[V]`` what the plain model's next token after ``talk`` and ``common`` is the argmax of: its logits, or its
        processed scores with their noise."""
        from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

        ids = self.loaded.encode(talk)["input_ids"][0].tolist() + common
        scores = self.loaded.next_logits(ids)
        if not self.settings.sample:
            return scores
        warpers = [TemperatureLogitsWarper(self.settings.temperature), TopPLogitsWarper(self.settings.top_p)]
        scores = ProcessorPipeline(warpers, 1).batch(scores[None])[0]
        seeds, positions = (torch.tensor([number], device=scores.device) for number in (seed, len(ids)))
        return scores + vocab.gumbel(seeds, positions, len(scores))[0]
