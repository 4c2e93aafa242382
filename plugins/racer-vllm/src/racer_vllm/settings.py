"""What can be set: vLLM passes a proposer no arguments, so it stands in the environment or in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from racer.config import Choice
from racer.errors import ConfigError

PREFIX = "RACER_VLLM_"
SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


@attrs.frozen
class Settings:
    """How to draft."""

    drafter: str | Choice = "racer"
    """A drafter's name, or in TOML a table of its name and parameters."""
    cues: bool = True
    """Whether the model's best tokens are looked at, by wrapping its ``compute_logits``."""
    least_score: float | None = None
    """Guesses less probable than this are left out; None: where they do not pay, by what steps take."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Of ``RACER_VLLM_CONFIG``, a TOML file, and then of ``RACER_VLLM_DRAFTER``, ``_CUES``, ``_LEAST_SCORE``.

        :raises ConfigError: the file cannot be read or is no TOML, a name that is none, or a value out of range.
        """
        names = [field.name for field in attrs.fields(cls)]
        known = {PREFIX + name.upper(): name for name in names} | {PREFIX + "CONFIG": None}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        if wrong := sorted(set(given) - set(known)):
            raise ConfigError(f"{wrong[0]} is unknown; there are {', '.join(sorted(known))}")
        values = _file(given[PREFIX + "CONFIG"], names) if PREFIX + "CONFIG" in given else {}
        values |= {name: given[variable] for variable, name in known.items() if name and variable in given}
        return cls(
            drafter=_drafter(values.get("drafter", "racer")),
            cues=_switch(values.get("cues", True)),
            least_score=_share(values.get("least_score")),
        )


def _file(path: str, names: list[str]) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{PREFIX}CONFIG: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{PREFIX}CONFIG: {path} is not valid TOML: {error}") from error
    if wrong := sorted(set(values) - set(names)):
        raise ConfigError(f"{path}: {wrong[0]!r} is unknown; there are {', '.join(names)}")
    return values


def _drafter(value: Any) -> str | Choice:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping) and "name" in value:
        return Choice(value["name"], {key: part for key, part in value.items() if key != "name"})
    raise ConfigError(f"drafter must be a name, or a table with one and parameters, not {value!r}")


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in SWITCH:
        return SWITCH[value.lower()]
    raise ConfigError(f"cues must be one of {', '.join(SWITCH)}, not {value!r}")


def _share(value: Any) -> float | None:
    if value is None or value == "auto":
        return None
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"least_score must be a probability or 'auto', not {value!r}")
    return share
