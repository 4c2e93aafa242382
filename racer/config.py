"""How to decode: one frozen object, checked when it is made."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

from racer.errors import ConfigError
from racer.files import write_whole

if TYPE_CHECKING:
    from racer.budgets.base import Budget
    from racer.strategies.base import Drafter
    from racer.verifiers.base import Verifier

MAX_BUDGET = 4096
"""A tree's ancestor mask is quadratic in its nodes; beyond this it is surely a typing error."""

COMPILE = ("auto", "graphs", "inductor", "static", "off")
"""Accepted by ``DecodeConfig.compile``."""


def _plain(value: Any) -> Any:
    """A copy of what TOML can hold, in Python's own types and with sorted keys, so that equal values read the same.

    :raises ConfigError: it holds something else.
    """
    if isinstance(value, Mapping):
        return {_key(name): _plain(value[name]) for name in sorted(value, key=_key)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise ConfigError(
        "parameters of a registered strategy are numbers, texts, booleans, and lists and tables of them, not "
        f"{value!r}: for anything else, pass an object that you made"
    )


def _key(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"parameters have names, not {name!r}")
    return name


@attrs.frozen
class Choice:
    """A registered strategy and its parameters; in a configuration it is written ``{name = "retrieval", ngram = 6}``.

    Equal and hashed by value. Whether there is such a strategy, and takes such parameters, is found out when it is made
    (:meth:`racer.discovery.Plugins.make`).

    :raises ConfigError: no name, or parameters that TOML cannot hold.
    """

    name: str = attrs.field()
    options: Mapping[str, Any] = attrs.field(factory=dict, converter=_plain, eq=repr)
    """Parameters by name. ``name`` cannot be one."""

    @name.validator
    def _check_name(self, _: Any, name: Any) -> None:
        if not (isinstance(name, str) and name):
            raise ConfigError(f"a strategy's name must be a text that is not empty, not {name!r}")
        if "name" in self.options:
            raise ConfigError(f"strategy {name!r} cannot have a parameter called 'name': that names the strategy")

    def to_dict(self) -> dict[str, Any]:
        """As it is written in a configuration: plain data, and nobody else's."""
        return {"name": self.name, **_plain(self.options)}


def _chosen(choice: Any) -> Any:
    """Mappings become choices; a choice without parameters is a name."""
    if isinstance(choice, Mapping):
        if "name" not in choice:
            raise ConfigError(f"a strategy with parameters is {{'name': ..., and its parameters}}, not {choice!r}")
        choice = Choice(choice["name"], {key: value for key, value in choice.items() if key != "name"})
    return choice.name if isinstance(choice, Choice) and not choice.options else choice


def _as_drafter(choice: str | Mapping[str, Any] | Choice | Drafter) -> str | Choice | Drafter:
    chosen: str | Choice | Drafter = _chosen(choice)
    return chosen


def _as_verifier(choice: str | Mapping[str, Any] | Choice | Verifier) -> str | Choice | Verifier:
    chosen: str | Choice | Verifier = _chosen(choice)
    return chosen


def _as_budget(choice: int | str | Mapping[str, Any] | Choice | Budget) -> int | str | Choice | Budget:
    chosen: int | str | Choice | Budget = _chosen(choice)
    return chosen


def _made(value: object, methods: tuple[str, ...]) -> bool:
    """Whether it is an object with these methods."""
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in methods)


def _check_budget(_: Any, __: Any, budget: Any) -> None:
    if isinstance(budget, str):
        known = bool(budget) and not budget.lstrip("+-").isdigit()
    elif isinstance(budget, int):
        known = not isinstance(budget, bool) and 1 <= budget <= MAX_BUDGET
    else:
        known = isinstance(budget, Choice) or _made(budget, ("nodes",))
    if not known:
        raise ConfigError(
            f"budget must be 'auto' or a whole number of nodes from 1 (plain decoding) to {MAX_BUDGET}, not {budget!r}"
        )


def _check_strategy(methods: tuple[str, ...]) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        named = isinstance(value, Choice) or (isinstance(value, str) and value)
        if not named and not _made(value, methods):
            raise ConfigError(f"{field.name} must be a name or an object with {', '.join(methods)}, not {value!r}")

    return check


def _check_seed(_: Any, __: Any, seed: int | None) -> None:
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63):
        raise ConfigError(f"seed must be None or a whole number from 0 to 2**63 - 1, not {seed!r}")


def _check_chunk(_: Any, __: Any, chunk: int) -> None:
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ConfigError(f"prefill_chunk must be a positive whole number of tokens, not {chunk!r}")


def _check_compile(_: Any, __: Any, choice: str) -> None:
    if choice not in COMPILE:
        accepted = ", ".join(map(repr, COMPILE))
        raise ConfigError(f"compile must be one of {accepted}, not {choice!r}")


def _check_pack(_: Any, __: Any, choice: bool | str) -> None:
    if not isinstance(choice, bool) and choice != "auto":
        raise ConfigError(f"pack must be True, False or 'auto', not {choice!r}")


def _as_tuple(plugins: Iterable[object]) -> tuple[object, ...]:
    return tuple(plugins)


def _identity(choice: object) -> object:
    """Names, numbers and choices are equal by value, objects when they are the same; no object needs a hash."""
    return choice if isinstance(choice, str | int | Choice) else id(choice)


def _identities(plugins: tuple[object, ...]) -> tuple[int, ...]:
    return tuple(map(id, plugins))


@attrs.frozen(kw_only=True)
class DecodeConfig:
    """Names of registered strategies, names with parameters (``{"name": "retrieval", "ngram": 6}``, which become a
    :class:`Choice`), or objects that you composed.

    :raises ConfigError: a value is out of range; the message says what is accepted.
    """

    drafter: str | Choice | Drafter = attrs.field(
        default="racer", converter=_as_drafter, eq=_identity, validator=_check_strategy(("draft", "observe"))
    )
    """Who guesses the tree."""
    verifier: str | Choice | Verifier = attrs.field(
        default="auto", converter=_as_verifier, eq=_identity, validator=_check_strategy(("verify",))
    )
    """Who accepts; ``auto`` is ``sampling`` where ``generate`` samples and ``greedy`` elsewhere."""
    budget: int | str | Choice | Budget = attrs.field(
        default="auto", converter=_as_budget, eq=_identity, validator=_check_budget
    )
    """Nodes per step, the root included; ``auto`` spends what pays on this machine."""
    seed: int | None = attrs.field(default=None, validator=_check_seed)
    """Each row samples with noise of its own, made from the seed and the row's number; None draws a seed from torch's
    global generator."""
    prefill_chunk: int = attrs.field(default=512, validator=_check_chunk)
    """Prompt tokens a forward pass, all rows together; bounds the logits held at once to ``[prefill_chunk, V]``.
    Sixteen times as many where no drafter looks at them, as then they are not made."""
    compile: str = attrs.field(default="auto", validator=_check_compile)
    """How steps reach the device: ``graphs`` captures them as CUDA graphs; ``inductor`` compiles the model's forward
    too (and captures it on CUDA); ``static`` keeps the shapes of both and does neither, to find out who is at fault;
    ``off`` gives every step its own shape. ``auto`` is ``off``, as long as graphs have not been measured on a GPU."""
    pack: bool | str = attrs.field(default="auto", validator=_check_pack)
    """Whether to keep a second copy of the weights in the layout of the CPU's matrix kernels (oneDNN; bf16 and
    float32): faster steps, for twice the weights' memory. It is made when a model is first decoded so. ``auto`` does
    it where that works and the weights of the model's linear layers take 1 GiB at most."""
    plugins: tuple[object, ...] = attrs.field(default=(), eq=_identities, converter=_as_tuple)
    """More hook implementations for this decoder: observers and wrappers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, defaults left out.

        :raises ConfigError: a strategy is an object; only names can be written down.
        """
        for name in ("drafter", "verifier", "budget"):
            if not isinstance(getattr(self, name), str | int | Choice):
                raise ConfigError(f"{name} is a composed object; only registered names can be written to a file")
        if self.plugins:
            raise ConfigError("plugins are objects; only registered names can be written to a file")
        kept = {field.name: getattr(self, field.name) for field in attrs.fields(type(self)) if field.name != "plugins"}
        kept = {name: value for name, value in kept.items() if value != attrs.fields_dict(type(self))[name].default}
        return {name: value.to_dict() if isinstance(value, Choice) else value for name, value in kept.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DecodeConfig:
        """The inverse of :meth:`to_dict`.

        :raises ConfigError: an unknown key, or a value out of range.
        """
        known = [field.name for field in attrs.fields(cls) if field.name != "plugins"]
        if unknown := sorted(set(data) - set(known)):
            raise ConfigError(f"unknown setting {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**data)

    def to_toml(self, path: str | Path) -> None:
        """Write the settings that differ from the defaults."""
        write_whole(path, tomli_w.dumps(self.to_dict()))

    @classmethod
    def from_toml(cls, path: str | Path) -> DecodeConfig:
        """Read what :meth:`to_toml` wrote.

        :raises ConfigError: not TOML, an unknown key, or a value out of range.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
