"""One prompt decoded, and on request decoded plainly beside it. Imports torch: commands import it late."""

from __future__ import annotations

import time
from typing import Any

import attrs

import racer
from racer.cli.options import Options
from racer.cli.state import KeptDrafter
from racer.cli.streaming import Streamer
from racer.config import MAX_BUDGET, DecodeConfig
from racer.discovery import plugins
from racer.errors import ConfigError, UnknownStrategy
from racer.loading.loaded_model import LoadedModel, first_difference, top2_gap
from racer.step.stats import DecodeStats

WARM_UP_TOKENS = 12


@attrs.frozen(eq=False)
class Plan:
    """What the options come to, settled before a model is loaded."""

    config: DecodeConfig
    sample: bool
    exact: bool
    """Whether the verifier keeps the output of plain decoding."""
    kept: KeptDrafter | None = None
    """The drafter of ``--state``."""

    @classmethod
    def of(cls, options: Options) -> Plan:
        """Look all names up, and see that parameters are taken.

        :raises UnknownStrategy: nobody registered a drafter, verifier or budget of that name.
        :raises ConfigError: the drafter does not take such a parameter, or such a value.
        :raises click.UsageError: the verifier contradicts the sampling options.
        """
        if isinstance(options.drafter, str):
            plugins.resolve("drafter", options.drafter)
        else:
            plugins.make("drafter", options.drafter)
        kept = KeptDrafter(options.drafter, options.state) if options.state else None
        samples, exact = None, True
        if options.verifier != "auto":
            offer = plugins.resolve("verifier", options.verifier)
            samples, exact = getattr(offer.make(), "samples", None), offer.exact
        if isinstance(options.budget, str):
            try:
                plugins.resolve("budget", options.budget)
            except UnknownStrategy as error:
                raise UnknownStrategy(f"{error}, or a whole number of nodes from 1 to {MAX_BUDGET}") from None
        sample = options.samples(samples)
        config = DecodeConfig(
            drafter=options.drafter,
            verifier=options.verifier,
            budget=options.budget,
            compile=options.compile,
            pack=options.pack,
            seed=options.drawn_seed(sample),
        )
        return cls(config, sample, exact, kept)


@attrs.frozen(eq=False)
class Outcome:
    """What one decoding gave."""

    tokens: list[int]
    stats: DecodeStats


@attrs.frozen(eq=False)
class Comparison:
    """Plain decoding of the same prompt."""

    plain: Outcome
    first_difference: int | None
    """Index of the first new token that differs; None if none does."""
    top2_gap: float | None
    """How far the plain model's two best logits are apart there."""


class PromptRun:
    """One model and one prompt, ready to decode.

    :raises ConfigError: the prompt cannot be encoded, has no tokens, or leaves no room in the model's context.
    :raises StateError: the file of ``--state`` cannot be used.
    """

    def __init__(self, options: Options, plan: Plan, loaded: LoadedModel) -> None:
        self.options, self.plan, self.loaded = options, plan, loaded
        try:
            self.inputs = loaded.encode([{"role": "user", "content": options.prompt}], raw=options.raw)
        except ConfigError as error:
            raise ConfigError(f"{error} (--raw goes without it)") from error
        self.prompt_tokens = int(self.inputs["input_ids"].shape[1])
        room = loaded.room(self.prompt_tokens)
        self.limit = options.max_new_tokens if room is None else min(options.max_new_tokens, room)
        if plan.kept:
            plan.kept.load(loaded)

    @property
    def before(self) -> list[int]:
        """The tokens of the text that the answer goes on from; none where it answers a question."""
        return self.inputs["input_ids"][0].tolist() if self.loaded.goes_on(self.options.raw) else []

    def decode(self, streamer: Streamer) -> Outcome:
        """Decode as configured; ``streamer`` gets the tokens as they are accepted."""
        kept = self.plan.kept
        config = attrs.evolve(self.plan.config, drafter=kept.drafter) if kept else self.plan.config
        return self._run(config, streamer)

    def keep(self) -> None:
        """Write down what the drafter learned, if ``--state`` asks for it."""
        if self.plan.kept:
            self.plan.kept.save(self.loaded)

    def warm_up(self) -> None:
        """A few tokens by both ways, so that what a first call costs counts for neither; what is learned is dropped."""
        for config in (self.plan.config, self._plain_config()):
            self._run(config, None, min(self.limit, WARM_UP_TOKENS))

    def compare(self, outcome: Outcome) -> Comparison:
        """Decode plainly, with a stream that nobody sees, as streaming costs time too."""
        mute = Streamer(self.loaded.tokenizer, lambda text, drafted: None)
        plain = self._run(self._plain_config(), mute)
        common = first_difference(outcome.tokens, plain.tokens)
        if common is None:
            return Comparison(plain, None, None)
        ids = self.inputs["input_ids"][0].tolist() + plain.tokens[:common]
        return Comparison(plain, common, top2_gap(self.loaded.next_logits(ids)))

    def _plain_config(self) -> DecodeConfig:
        verifier = self.plan.config.verifier if self.plan.exact else "auto"
        return attrs.evolve(self.plan.config, drafter="none", verifier=verifier)

    def _run(self, config: DecodeConfig, streamer: Streamer | None, limit: int | None = None) -> Outcome:
        if streamer is not None:
            hearing: Any = (streamer,)
            config = attrs.evolve(config, plugins=hearing)
        started = time.perf_counter()
        output = racer.generate(
            self.loaded.model,
            config=config,
            **self.inputs,
            **self.options.sampling(self.plan.sample),
            max_new_tokens=limit or self.limit,
            pad_token_id=self.loaded.pad_token_id,
            return_dict_in_generate=True,
            streamer=streamer,
        )
        seconds = time.perf_counter() - started
        tokens = output.sequences[0, self.prompt_tokens :].tolist()
        stats = getattr(output, "racer_stats", None) or self._plain_stats(tokens, seconds)
        return Outcome(tokens, stats)

    def _plain_stats(self, tokens: list[int], seconds: float) -> DecodeStats:
        """For a model that cannot be decoded with trees: transformers did it, one token a step."""
        steps = len(tokens) - 1
        return DecodeStats(
            drafter="none",
            verifier="sampling" if self.plan.sample else "greedy",
            prompt_tokens=self.prompt_tokens,
            new_tokens=len(tokens),
            steps=steps,
            accept_lengths=[[1] * steps],
            nodes=[1] * steps,
            seconds=seconds,
        )
