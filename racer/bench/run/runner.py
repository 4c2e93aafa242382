"""Asks every method about every turn of every question, in a rotating order, so that drift of the machine hits all."""

from __future__ import annotations

import gc
import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from racer.bench.adapters.base import Adapter
from racer.bench.adapters.llama_cpp import LlamaCppAdapter
from racer.bench.adapters.racer_decoder import RacerAdapter
from racer.bench.adapters.transformers_generate import TransformersAdapter
from racer.bench.meters import PeakMemory
from racer.bench.methods import Method
from racer.bench.peers import Peer
from racer.bench.questions import Question
from racer.bench.run.divergence import gaps
from racer.bench.run.journal import Journal
from racer.bench.run.prompts import Talk, encode_batch, has_room, longest
from racer.bench.settings import Settings
from racer.bench.trials import Key, Trial
from racer.config import DecodeConfig
from racer.errors import ConfigError, first_line
from racer.guard import complaints
from racer.loading.loaded_model import LoadedModel

WARM_UP_TOKENS = 12
WARM_UP_PROMPT = "Count from one to ten, and then back."


@attrs.frozen
class _Asked:
    """One turn of one batch of questions."""

    number: int
    turn: int
    group: str
    rows: list[int]
    """The questions that have this turn."""
    talks: list[Talk]
    """The conversation of each row so far."""
    lost: bool
    """Whether the plain answer to the turn before is missing, so that nothing can be asked."""

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
    peers: Mapping[str, Peer] = attrs.field(factory=dict)
    """Methods of other programs, by name."""
    batches: list[list[int]] = attrs.field(init=False)
    """Indices of questions that are asked together."""
    _adapters: dict[str, Adapter] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        """Batch neighbours of one group; a prompt that is too long fails alone."""
        groups: dict[str, list[int]] = defaultdict(list)
        alone, size = [], self.settings.batch_size
        for row, question in enumerate(self.questions):
            if size == 1 or has_room(self.loaded, question.turns[0], self.settings.max_new_tokens):
                groups[question.group].append(row)
            else:
                alone.append([row])
        batches = [rows[i : i + size] for rows in groups.values() for i in range(0, len(rows), size)]
        self.batches = sorted([*batches, *alone])

    def total(self) -> int:
        """Trials of the whole run."""
        return sum(map(self._turns, self.batches)) * len(self.methods)

    def run(self) -> None:
        """Measure whatever is missing in the journal.

        :raises UnsupportedModel: the model cannot be verified with trees.
        """
        try:
            if not all(itertools.starmap(self._complete, enumerate(self.batches))):
                self._warm_up()
            gc.collect()
            gc.freeze()  # what is there stays: the collections between trials need not look at it
            for number, batch in enumerate(self.batches):
                self._converse(number, batch)
        finally:
            gc.unfreeze()
            for adapter in self._adapters.values():
                adapter.close()

    def _turns(self, batch: list[int]) -> int:
        return max(len(self.questions[row].turns) for row in batch)

    def _complete(self, number: int, batch: list[int]) -> bool:
        keys = itertools.product([number], range(self._turns(batch)), [method.name for method in self.methods])
        return all(key in self.journal.trials for key in keys)

    def _warm_up(self) -> None:
        """What first calls cost counts for nobody, and what they teach is forgotten."""
        prompt = self.loaded.encode([{"role": "user", "content": WARM_UP_PROMPT}])
        inputs = {name: part.expand(self.settings.batch_size, -1) for name, part in prompt.items()}
        for method in self.methods:
            adapter = self._adapters[method.name] = self._make(method)
            with suppress(Exception):  # who fails here fails on the questions too, and there it is written down
                adapter.answer(inputs, WARM_UP_TOKENS, self.settings.seed)
            adapter.forget()

    def _make(self, method: Method) -> Adapter:
        if peer := self.peers.get(method.name):
            context = longest(self.loaded, self.questions, self.settings.max_new_tokens)
            return LlamaCppAdapter(self.loaded, self.settings.arguments(), peer, context)
        if method.drafter is None:
            return TransformersAdapter(self.loaded, self.settings.arguments(), method.lookup)
        return RacerAdapter(self.loaded, self.settings.arguments(), self._config(method))

    def _config(self, method: Method) -> DecodeConfig:
        return attrs.evolve(method.config(), compile=self.settings.compile, pack=self.settings.pack)

    # -- one batch of questions -------------------------------------------------------------------------------------

    def _converse(self, number: int, batch: list[int]) -> None:
        """All turns. Everybody is asked the same: the conversation goes on from the plain answers."""
        talks: dict[int, Talk] = {row: [] for row in batch}
        lost = False
        for turn in range(self._turns(batch)):
            rows = [row for row in batch if turn < len(self.questions[row].turns)]
            for row in rows:
                talks[row].append({"role": "user", "content": self.questions[row].turns[turn]})
            asked = _Asked(number, turn, self.questions[batch[0]].group, rows, [talks[row] for row in rows], lost)
            for method in self._order(number + turn):
                if asked.key(method) not in self.journal.trials:
                    self._try(asked, method)
            self._look_closer(asked)
            plain = self.journal.trials[number, turn, "none"]
            lost = plain.error is not None
            for row, text in zip(rows, plain.texts, strict=False):
                talks[row].append({"role": "assistant", "content": text})

    def _order(self, count: int) -> Sequence[Method]:
        """Everybody is first in turn, and after each round the neighbours change sides."""
        rounds, start = divmod(count, len(self.methods))
        order = (*self.methods[start:], *self.methods[:start])
        return order[::-1] if rounds % 2 else order

    def _try(self, asked: _Asked, method: Method) -> None:
        """Measure one method on one turn; whatever fails is written down, and the run goes on."""
        common: dict[str, Any] = {
            "number": asked.number, "turn": asked.turn, "method": method.name, "group": asked.group, "rows": asked.rows,
        }  # fmt: skip
        prompts: list[int] = []
        try:
            if asked.lost:
                raise ConfigError("the plain answer to the turn before is missing")
            inputs, prompts = encode_batch(self.loaded, asked.talks, self.settings.max_new_tokens)
            adapter = self._adapters[method.name]
            if self.settings.cold:
                adapter.forget()
            with complaints() as heard, PeakMemory(self.loaded.model.device) as memory:
                measured = adapter.answer(inputs, self.settings.max_new_tokens, self._seed(asked))
            common |= {
                "measured": measured,
                "texts": self.loaded.tokenizer.batch_decode(measured.tokens, skip_special_tokens=True),
                "peak_bytes": memory.bytes if adapter.in_process else None,
                "complaint": "; ".join(heard) or None,
            }
        except Exception as error:  # models and plugins fail in their own ways
            common["error"] = f"{type(error).__name__}: {first_line(error)}"
        trial = Trial(**common, prompt_tokens=prompts, time=time.time())
        self.journal.add(trial)
        self.told(trial)

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
            if found := gaps(self.loaded, self.settings, asked.talks, plain, measured):
                self.journal.add_gaps(key, found)
