"""Who is measured: names as the user writes them, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from racer.bench import peers as programs
from racer.config import DecodeConfig
from racer.discovery import plugins
from racer.engine.strategy_set import StrategySet
from racer.errors import ConfigError, UnknownStrategy

TRANSFORMERS = {"hf": 0, "hf-prompt-lookup": 10}
"""transformers' own methods, and the ``prompt_lookup_num_tokens`` of each (0: plain decoding)."""
BASELINES = ("none", "hf")
"""Always measured, as all others are compared with them."""
DEFAULT = ("none", "hf", "hf-prompt-lookup", "racer")


@attrs.frozen(kw_only=True)
class Method:
    """One way of decoding: transformers' own, another program's, or a drafter with a budget and a verifier."""

    name: str
    """As the user wrote it."""
    drafter: str | None = None
    """None: others decode."""
    budget: int | str = "auto"
    verifier: str = "auto"
    exact: bool = True
    """Whether the verifier keeps the output of plain decoding."""

    @property
    def lookup(self) -> int:
        """For transformers' own: tokens that prompt lookup may draft."""
        return TRANSFORMERS.get(self.name, 0)

    def config(self) -> DecodeConfig:
        """How RACER shall decode, for methods that are RACER's."""
        if self.drafter is None:
            by = "transformers" if self.name in TRANSFORMERS else "another program"
            raise ConfigError(f"{self.name} is decoded by {by} and has no RACER configuration")
        return DecodeConfig(drafter=self.drafter, budget=self.budget, verifier=self.verifier)


def foreign(name: str) -> bool:
    """Whether others than RACER decode."""
    return name in TRANSFORMERS or name in programs.METHODS


def parse_methods(
    names: Sequence[str], *, budget: int | str, sample: bool, batch_size: int, peers: Sequence[str] = ()
) -> tuple[Method, ...]:
    """Methods from ``hf``, ``hf-prompt-lookup`` and ``DRAFTER[@BUDGET][/VERIFIER]``; the baselines come first.

    :param peers: methods of other programs that were found; those not in ``names`` come last.
    :param budget: of methods that name none.
    :raises UnknownStrategy: no such drafter, verifier or budget.
    :raises PluginError: a drafter that cannot be made.
    :raises ConfigError: a method that is named twice, or cannot decode as the run shall.
    """
    wanted = [*BASELINES, *(name for name in names if name not in BASELINES)]
    wanted += [name for name in peers if name not in wanted]
    if doubled := [name for number, name in enumerate(wanted) if name in wanted[:number]]:
        raise ConfigError(f"method {doubled[0]!r} is named twice: name each once")
    if batch_size > 1 and "hf-prompt-lookup" in wanted:
        raise ConfigError(
            "transformers' prompt lookup takes one prompt at a time: drop hf-prompt-lookup, or --batch-size"
        )
    if batch_size > 1 and peers:
        raise ConfigError(f"{peers[0]} is asked one prompt at a time: drop --peers, or --batch-size")
    if missing := [name for name in wanted if name in programs.METHODS and name not in peers]:
        raise ConfigError(f"method {missing[0]!r} is another program's: give --peers {', '.join(programs.PEERS)}")
    return tuple(_parse(name, budget, sample) for name in wanted)


def _parse(name: str, budget: int | str, sample: bool) -> Method:
    if foreign(name):
        return Method(name=name)
    head, slash, verifier = name.partition("/")
    drafter, at, size = head.partition("@")
    if not drafter or (slash and not verifier) or (at and not size):
        raise ConfigError(f"method {name!r} is not understood: expected DRAFTER, DRAFTER@BUDGET or DRAFTER/VERIFIER")
    try:
        plugins.resolve("drafter", drafter)
    except UnknownStrategy as error:
        raise UnknownStrategy(f"{error}; transformers' own are {', '.join(TRANSFORMERS)}") from None
    exact = True
    if verifier:
        offer = plugins.resolve("verifier", verifier)
        exact, samples = offer.exact, getattr(offer.make(), "samples", None)
        if samples is not None and samples != sample:
            does = "samples" if samples else "decodes greedily"
            mend = "give --temperature above 0" if samples else "drop --temperature"
            raise ConfigError(f"method {name!r}: verifier {verifier!r} {does}: {mend}, or drop /{verifier}")
    nodes: int | str = int(size) if size.isdigit() else size or budget
    if drafter == "none":
        nodes = 1
    elif isinstance(nodes, str):
        plugins.resolve("budget", nodes)
    method = Method(name=name, drafter=drafter, budget=nodes, verifier=verifier or "auto", exact=exact)
    StrategySet(method.config())  # whatever cannot be made is told before a model is loaded
    return method
