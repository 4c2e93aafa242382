"""What all requests share: the model, its engine, grammars, figures; and how a request gets its answer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from racer.engine.continuous.stream import Stream
from racer.errors import EngineClosed
from racer.loading.loaded_model import LoadedModel
from racer.serve import sampling
from racer.serve.answer import Answer, Choice
from racer.serve.errors import ApiError, broken, invalid, refused, unavailable
from racer.serve.grammar import Grammars
from racer.serve.jobs import Job
from racer.serve.metrics import Metrics
from racer.serve.scores import TokenNames
from racer.serve.settings import ServiceSettings
from racer.serve.text import AnswerText

if TYPE_CHECKING:
    from racer.hf.engine import Engine

log = logging.getLogger(__name__)


class Service:
    """One model behind one engine. Its methods may be called from any thread, but for :meth:`answer`.

    :param engine: decodes; closed with the service.
    """

    def __init__(self, loaded: LoadedModel, engine: Engine, settings: ServiceSettings) -> None:
        self.loaded, self.engine, self.settings = loaded, engine, settings
        self.end_tokens = _end_tokens(loaded)
        self.grammars = Grammars(loaded, sorted(self.end_tokens))
        self.names = TokenNames(loaded.tokenizer)
        self.metrics = Metrics(engine.figures)
        self.started = int(time.time())
        self._max_tokens = engine.figures().max_tokens
        self._following: set[asyncio.Task[None]] = set()
        self._closing: threading.Thread | None = None
        self._told_of_failure = False
        engine.observe(self.metrics.step)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def answer(self, understand: Callable[[], Job]) -> Answer:
        """Begin to decode what a request asks for.

        :param understand: makes sense of the request; called in a thread, as that takes time.
        :raises ApiError: it is refused.
        """
        if self.closing:
            raise self.refusal()
        came = time.monotonic()
        choices: list[Choice] = []
        try:
            job = await anyio.to_thread.run_sync(self._begin, understand, choices)
        except BaseException:
            for choice in choices:  # others of the same request may have been begun
                choice.stream.cancel()
            raise
        for choice in choices:
            self._follow(choice.stream)
        prompt_tokens = sum(map(len, job.prompts))
        return Answer(choices, job.body.answers, prompt_tokens, self.settings.timeout, came)

    def _begin(self, understand: Callable[[], Job], choices: list[Choice]) -> Job:
        """Submit a request's choices, which are added to ``choices``."""
        job = understand()
        self._check_number(len(job.prompts) * job.body.answers)
        for prompt in job.prompts:
            limit = self._limit(len(prompt), job)
            for _ in range(job.body.answers):
                try:
                    stream = self._submit(job, prompt, limit, len(choices))
                except EngineClosed as error:
                    raise self.refusal() from error
                except Exception as error:
                    raise refused(error) from error
                before = prompt if job.goes_on else ()
                text = AnswerText(self.loaded.tokenizer, job.body.stops, self.end_tokens, before, job.shown)
                choices.append(Choice(len(choices), stream, text, job.reader()))
        return job

    def _submit(self, job: Job, prompt: Sequence[int], limit: int, number: int) -> Stream:
        body, size = job.body, len(prompt)
        processors = sampling.penalties(body, size)
        if job.grammar is not None:
            processors.append(self.grammars.processor(job.grammar, size))
        settings = sampling.sampling(body) | {
            "max_new_tokens": limit,
            "pad_token_id": self.loaded.pad_token_id,
            "eos_token_id": sorted(self.end_tokens) or None,
            "logits_processor": processors,
            "stopping_criteria": sampling.criteria(body, self.loaded.tokenizer, size),
        }
        return self.engine.submit(
            list(prompt),
            settings,
            seed=sampling.seed_of(body, number),
            tenant=job.tenant,
            budget=body.own.most_nodes,
            logprobs=job.scores,
        )

    def _check_number(self, answers: int) -> None:
        """See that a request's answers may wait all together: to come again later would not help it.

        :raises ApiError: they are too many.
        """
        most = self.settings.max_waiting
        if most is not None and answers > most:
            told = f"{answers} answers in one request are more than may wait here ({most}): ask for fewer at once."
            raise invalid(told, "n", "too_many_answers")

    def _limit(self, prompt_tokens: int, job: Job) -> int:
        """New tokens that an answer may have: it ends where the context does.

        One that nobody asked for ends where the engine's room does, too.

        :raises ApiError: the prompt leaves no room.
        """
        wanted = job.limit
        if wanted is None:
            default = self.settings.default_limit if job.default is None else job.default
            wanted = max(1, min(default, self._max_tokens - prompt_tokens))
        try:
            room = self.loaded.room(prompt_tokens)
        except ValueError as error:
            code = "context_length_exceeded" if prompt_tokens else "invalid_value"
            raise invalid(str(error), code=code) from None
        return wanted if room is None else min(wanted, room)

    def _follow(self, stream: Stream) -> None:
        task = asyncio.create_task(self._note(stream))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _note(self, stream: Stream) -> None:
        try:
            await self.metrics.follow(stream)
        except EngineClosed as error:
            self._tell_failure(error.__cause__)
        except Exception:
            pass  # whoever waits for the answer is told

    @property
    def context(self) -> int | None:
        """Tokens that the model can look at; None if it states no limit."""
        limit = getattr(self.loaded.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def card(self) -> dict[str, Any]:
        """The model, as clients list it."""
        name = self.settings.served_name
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "racer",
            "max_model_len": self.context,
        }

    def check_model(self, name: str | None) -> None:
        """See that a request is meant for this model.

        :raises ApiError: it names another.
        """
        if name is not None and name != self.settings.served_name:
            there = f"there is {self.settings.served_name!r}"
            raise ApiError(404, f"The model {name!r} does not exist: {there}.", param="model", code="model_not_found")

    # -- its life -----------------------------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether nothing new is begun."""
        return self._closing is not None or self.engine.closed

    def refusal(self) -> ApiError:
        """What those hear who come when nothing new is begun."""
        if self._closing is not None:
            return unavailable()
        self._tell_failure(None)
        return broken()

    def _tell_failure(self, cause: BaseException | None) -> None:
        """Log once that the engine has failed."""
        if self._closing is None and not self._told_of_failure:
            self._told_of_failure = True
            log.error("the engine has failed: the server must be started again", exc_info=cause)

    def close(self) -> None:
        """Begin nothing new, and let what runs end in its time; returns at once."""
        if self._closing is None:
            drain = self.settings.drain
            self._closing = threading.Thread(target=self.engine.close, kwargs={"drain": drain}, name="racer-drain")
            self._closing.start()

    def closed(self) -> None:
        """Wait until all has ended."""
        self.close()
        assert self._closing is not None
        self._closing.join()


def _end_tokens(loaded: LoadedModel) -> frozenset[int]:
    """What ends an answer: as the model says, or else its tokenizer."""
    said: Any = getattr(loaded.model.generation_config, "eos_token_id", None)
    if said is None:
        said = loaded.tokenizer.eos_token_id
    if said is None:
        return frozenset()
    return frozenset(said if isinstance(said, list | tuple) else [said])
