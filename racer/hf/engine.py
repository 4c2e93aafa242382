"""Requests that come and go, decoded together: continuous batching over an unmodified model."""

from __future__ import annotations

import copy
import secrets
import weakref
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.config import Choice, DecodeConfig
from racer.core.model_state import base_of, uncompiled
from racer.core.support import probe
from racer.discovery import plugins
from racer.engine.continuous.admission import Room
from racer.engine.continuous.figures import EngineFigures, Observer
from racer.engine.continuous.member import Alone, Member
from racer.engine.continuous.prefix_cache import PrefixCache
from racer.engine.continuous.scheduler import Scheduler
from racer.engine.continuous.stream import Stream
from racer.engine.continuous.worker import Worker
from racer.engine.spec import BatchSpec
from racer.engine.strategy_set import StrategySet
from racer.engine.threads import let_go_of_team
from racer.errors import ConfigError, UnsupportedGeneration, UnsupportedModel
from racer.hf.alone import decoded_by_itself, decoded_plainly, plain_request
from racer.hf.batch_spec import Asked
from racer.hf.call import Call
from racer.hf.generate import Decoder
from racer.hf.loop import Loop
from racer.hf.plain import warn_of_plain
from racer.hf.submission import checked, token_ids
from racer.step.request import Request
from racer.strategies.adapt import as_drafter
from racer.strategies.base import Drafter
from racer.strategies.tenants import PerTenant


class Engine:
    """Decodes requests that come and go, each to the tokens of its solo run.

    One thread of its own decodes all that is there, one forward pass a step for all rows; requests join between two
    steps and leave when they end, fail or are cancelled. Each has its own settings, seed, processors, criteria and tree
    size. What cannot share a batch (beams, images, models that take no trees, ...) is decoded alone between two steps,
    in the order in which it came, and the others wait for it.

    :param model: a Hugging Face causal LM, or what ``torch.compile`` or PEFT made of it. Nobody should change it while
        requests are being decoded.
    :param config: how to decode; the default if None. Its seed is of no effect here: each request has its own.
    :param max_tokens: of all requests that are decoded at once, prompts included: what bounds the key-value cache.
        Rows stand side by side, each as long as the longest may become; storage is a quarter more at most, and trees.
    :param max_rows: requests that are decoded at once.
    :param max_waiting: requests that may wait for room.
    :param prefill_piece: tokens of a prompt that are scored between two steps: nobody waits longer for those who come.
    :param kept_tokens: slots that are kept of requests that have ended, beside ``max_tokens``: a request that begins
        alike, as a chat's next turn does, has only what is new scored. 0 keeps nothing.
    :raises UnsupportedModel: it must be loaded otherwise; the message says how.
    :raises UnknownStrategy, PluginError: see :class:`racer.Decoder`.
    """

    def __init__(
        self,
        model: Any,
        config: DecodeConfig | None = None,
        *,
        max_tokens: int = 32768,
        max_rows: int = 16,
        max_waiting: int = 256,
        prefill_piece: int = 256,
        kept_tokens: int = 8192,
    ) -> None:
        for name, value, least in (
            ("max_tokens", max_tokens, 1),
            ("max_rows", max_rows, 1),
            ("max_waiting", max_waiting, 1),
            ("prefill_piece", prefill_piece, 1),
            ("kept_tokens", kept_tokens, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number from {least}, not {value!r}")
        self.model = uncompiled(model)
        self.config = config or DecodeConfig()
        support = probe(base_of(self.model))
        if not support.prepared:
            raise UnsupportedModel(support.reason)
        chosen = self.config.drafter
        tenants = attrs.evolve(self.config, drafter=PerTenant(partial(_new_drafter, chosen)))
        self._decoder: Decoder | None = None
        if support.way != "plain":
            self._decoder = Decoder(self.model, tenants, strategies=StrategySet(tenants))
        room = Room(max_tokens, max_rows)
        self._scheduler = Scheduler(self._decoder, room, max_waiting, prefill_piece, PrefixCache(kept_tokens))
        self._worker = Worker(self._scheduler)
        let_go_of_team()
        self._start()
        self._closer = weakref.finalize(self, self._worker.abandon)

    def submit(
        self,
        prompt_ids: Sequence[int] | Tensor,
        settings: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
        tenant: Hashable = None,
        budget: int | None = None,
        logprobs: int | None = None,
    ) -> Stream:
        """Ask for an answer; from any thread.

        :param prompt_ids: ``[P]`` or ``[1, P]`` token ids.
        :param settings: what ``model.generate`` takes beside the prompt: ``max_new_tokens``, ``temperature``,
            ``logits_processor``, ``stop_strings`` with ``tokenizer``, a ``generation_config`` ...
        :param seed: of its noise, where it samples: the tokens are those of ``racer.generate`` with
            ``DecodeConfig(seed=seed)``. None draws one.
        :param tenant: whose text it is. Nothing of it is drafted to, or kept for, another tenant's requests.
        :param budget: tree nodes that it may have a step; 1 decodes it plainly. None: what the configuration says.
        :param logprobs: the most likely tokens to tell of with each emitted one; 0: its own alone; None: nothing.
        :raises ConfigError: a setting that an engine does not take, or a value out of range; see also what
            ``model.generate`` raises.
        :raises RequestTooLong: it could never be decoded within ``max_tokens``.
        :raises EngineFull: as many wait as may.
        :raises EngineClosed: the engine is closed.
        """
        given = checked(settings, seed, budget, logprobs)
        seed = secrets.randbits(62) if seed is None else seed
        asked = Asked(seed, tenant, budget)
        ids = token_ids(prompt_ids, self.model)
        call = Call.of(self.model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given})
        try:
            spec = self._spec(call, asked)
        except (UnsupportedGeneration, UnsupportedModel) as refusal:
            if logprobs is not None:
                raise ConfigError(f"logprobs are not told of calls that are decoded plainly: {refusal}") from refusal
            warn_of_plain(refusal)
            member = self._member(plain_request(call, ids, asked), None, alone=decoded_plainly(call, seed))
        else:
            shares = spec.support is not None and spec.support.plan is not None and spec.support.border is None
            if shares and spec.prepared is None and spec.settle is None:
                request = attrs.evolve(spec.requests[0], stop_tokens=spec.stop_tokens)
                member = self._member(request, attrs.evolve(spec, requests=(request,)), logprobs)
            elif logprobs is not None:
                raise ConfigError(f"logprobs are not told of requests that a {type(self.model).__name__} decodes alone")
            else:
                member = self._member(spec.requests[0], None, alone=decoded_by_itself(self._decoder, spec))
        self._scheduler.submit(member)
        return member.stream

    def _member(
        self, request: Request, spec: BatchSpec | None, logprobs: int | None = None, alone: Alone | None = None
    ) -> Member:
        scheduler = self._scheduler

        def cancel() -> None:
            member.cancelled = True
            scheduler.wake()

        member = Member(request, spec, Stream(request.id, cancel), logprobs, alone)
        return member

    def _spec(self, call: Call, asked: Asked) -> BatchSpec:
        """What ``generate`` makes of a call, up to the point where it would be decoded.

        :raises UnsupportedGeneration, UnsupportedModel: RACER cannot decode it rightly.
        """
        if self._decoder is None:
            raise UnsupportedModel(f"{type(self.model).__name__} takes no trees: {probe(base_of(self.model)).reason}")
        call.refuse()
        given, _ = call.for_callable()
        intake = _Intake(self.config, self._decoder, asked=asked)
        type(self.model).generate(self.model, **given, custom_generate=intake)
        if intake.spec is None:
            raise UnsupportedModel(f"{type(self.model).__name__} has a generate of its own, which goes another way")
        # before transformers 5.24 a cache that it has made itself looks like a given one; an engine is given none
        return attrs.evolve(intake.spec, outside=None)

    def _start(self) -> None:
        self._worker.start()

    def observe(self, observer: Observer) -> None:
        """Have each step told: ``observer(rows, nodes, new_tokens, seconds)``, on the engine's thread."""
        self._scheduler.observe(observer)

    def figures(self) -> EngineFigures:
        """What was done, and what is there now."""
        return self._scheduler.figures()

    @property
    def closed(self) -> bool:
        """Whether it begins nothing more: it was closed, or has failed."""
        return self._scheduler.closed

    def forget(self) -> None:
        """Go on from no text that has ended by now. That weights were changed an engine sees by itself, unless it
        went past torch, by ``.data`` or numpy."""
        self._scheduler.forget()

    def close(self, drain: float | None = None) -> None:
        """Refuse new requests, and wait for the thread's end.

        :param drain: seconds that running and waiting requests have to end; then they are cancelled. None: at once.
        """
        self._closer.detach()
        self._worker.close(drain)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Intake(Loop):
    """Takes a call as ``generate`` has prepared it, and decodes nothing yet."""

    spec: BatchSpec | None = None

    def __call__(self, model: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.spec = self.prepare(model, input_ids, *args, **kwargs).spec
        return input_ids


def _new_drafter(choice: str | Choice | Drafter) -> Drafter:
    """A drafter that knows nothing yet; of an object that was made by the user, a copy."""
    return as_drafter(plugins.make("drafter", choice if isinstance(choice, str | Choice) else copy.deepcopy(choice)))
