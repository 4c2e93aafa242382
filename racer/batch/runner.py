"""The run: lines in, a bounded number of them at once in the engine, answers out as they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import attrs

from racer.batch import records
from racer.batch.asked import Asked, understand
from racer.batch.defaults import Defaults, Stopping
from racer.batch.index import Index
from racer.batch.lines import Line, LineError
from racer.batch.output import Output
from racer.engine.continuous.figures import EngineFigures
from racer.engine.continuous.stream import Stream
from racer.errors import ConfigError, EngineClosed, first_line, told
from racer.loading.detokenizer import continuation
from racer.loading.loaded_model import LoadedModel

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What is needed of :class:`racer.Engine`."""

    def submit(self, prompt_ids: list[int], settings: dict[str, Any], *, seed: int | None) -> Stream:
        """Begin to answer."""
        ...

    def figures(self) -> EngineFigures:
        """Its bounds, among others."""
        ...


@attrs.define
class Tally:
    """How far the run is."""

    answered: int = 0
    failed: int = 0
    first_failure: str | None = None
    """Which line, and why."""


class Runner:
    """Answers the lines of one input.

    :param stopping: makes the criteria of stop strings.
    :param window: lines that are in the engine at most.
    :param heard: called after each line that was written.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        defaults: Defaults,
        output: Output,
        *,
        stopping: Stopping,
        window: int,
        heard: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self._loaded, self._engine, self._defaults, self._output = loaded, engine, defaults, output
        self._stopping, self._window, self._heard = stopping, window, heard
        self._settings, self._max_tokens = defaults.digest, engine.figures().max_tokens
        self.tally = Tally()

    def run(self, lines: Iterable[Line], index: Index) -> None:
        """Answer all lines that are not answered yet; what one line fails with is its answer.

        :raises EngineClosed: the engine failed beyond repair; what was answered is kept.
        :raises ConfigError: the input changed since the index was made.
        :raises OSError: the input cannot be read, or an answer not be written.
        """
        asyncio.run(self._run(lines, index))

    async def _run(self, lines: Iterable[Line], index: Index) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            for line in lines:
                if not _waits(line, index):
                    continue
                running.add(asyncio.create_task(self._one(line)))
                if len(running) >= self._window:
                    running = await _one_less(running)
            while running:
                running = await _one_less(running)
        finally:
            for task in running:
                task.cancel()

    async def _one(self, line: Line) -> None:
        failure: tuple[int, str] | None = None
        try:
            record = await self._answer(line)
        except (LineError, ValueError, TypeError, NotImplementedError) as error:  # what it asks for cannot be done
            failure = records.REFUSED, first_line(error)
        except (OSError, EngineClosed):
            raise
        except Exception as error:
            log.exception("line %d failed", line.number)
            failure = records.FAILED, told(error)
        if failure is not None:
            record = records.failure(line, *failure, settings=self._settings)
        self._output.add(record)
        self._count(line, failure)
        self._heard(self.tally)

    def _count(self, line: Line, failure: tuple[int, str] | None) -> None:
        if failure is None:
            self.tally.answered += 1
            return
        self.tally.failed += 1
        self.tally.first_failure = self.tally.first_failure or f"line {line.number}: {failure[1]}"

    async def _answer(self, line: Line) -> dict[str, Any]:
        asked = understand(line)
        seed = self._defaults.seed_of(asked.wanted, line.key)
        ids = self._defaults.encode(asked, self._loaded)
        completion = await self._submit(asked, ids, seed).completion()
        before = ids if self._loaded.goes_on(asked.prompt is not None or self._defaults.raw) else ()
        text = cut(continuation(self._loaded.tokenizer, before, completion.tokens), asked.wanted.stop)
        return records.answer(
            line, asked, text, completion, model=self._loaded.name, settings=self._settings, seed=seed
        )

    def _submit(self, asked: Asked, ids: list[int], seed: int | None) -> Stream:
        self._check(ids)
        arguments = self._defaults.arguments(
            asked.wanted, self._loaded, len(ids), self._stopping, most=self._max_tokens
        )
        return self._engine.submit(ids, arguments, seed=seed)

    def _check(self, ids: Sequence[int]) -> None:
        vocabulary = self._loaded.model.get_input_embeddings().num_embeddings
        if any(not 0 <= token < vocabulary for token in ids):
            raise ConfigError(f"the prompt's tokens must be numbers from 0 to {vocabulary - 1}")


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of ``stops``: the last token may reach beyond it."""
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else text


def _waits(line: Line, index: Index) -> bool:
    """Whether it is to be answered still."""
    entry = index.find(line.key)
    if entry is None or entry.digest != line.digest:
        raise ConfigError(f"the input was changed while it was read: line {line.number} is another one now; run again")
    return not entry.done


async def _one_less(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for some to end, and raise what they failed with."""
    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return running
