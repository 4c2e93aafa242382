"""Every error that RACER raises on purpose. Each message says what was wrong and what is accepted."""

from __future__ import annotations

import logging
import signal
import traceback
import warnings

log = logging.getLogger(__name__)


class RacerError(Exception):
    """Base of all deliberate errors; catch it to tell a wrong request from a bug."""


class ConfigError(RacerError, ValueError):
    """A setting is out of range or contradicts another."""


class UnknownStrategy(RacerError, LookupError):
    """No drafter, verifier or budget is registered under this name."""


class PluginError(RacerError):
    """A plugin cannot be loaded, or registers a name that is taken."""


class UnsupportedModel(RacerError):
    """The model cannot be verified with a tree, and the reason is in the message."""


class UnsupportedGeneration(RacerError, ValueError):
    """A call that RACER cannot decode rightly (beams, embeddings as input, ...): ``generate`` decodes it plainly."""


class StateError(RacerError, ValueError):
    """A file of a drafter's state is damaged, or belongs to another model, version or size; or the drafter has none."""


class ModelNotFound(RacerError, OSError):
    """A model's name leads nowhere: no such folder, nothing in it, or no network."""


def of_the_plugin(error: BaseException) -> bool:
    """Whether what foreign code raised ends there: all errors, ``SystemExit`` and ``GeneratorExit`` too.

    An interrupt goes through, and so does whatever the program's signal handlers raise, at whatever place the signal
    came, and what other tools derive from ``BaseException`` to stop the whole program.
    """
    return isinstance(error, (Exception, SystemExit, GeneratorExit)) and not _raised_by_a_signal(error)


def _raised_by_a_signal(error: BaseException) -> bool:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    functions = [getattr(handler, "__func__", handler) for handler in handlers]
    codes = [getattr(function, "__code__", None) for function in functions]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def told(error: BaseException) -> str:
    """An error's type and text; foreign ones may fail to tell it."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def warn_of_plugin(text: str, category: type[Warning]) -> None:
    """Warn of what foreign code did. Where warnings are made errors, it is logged: it must not end what goes on."""
    try:
        warnings.warn(text, category, stacklevel=3)
    except Warning:
        log.warning(text)


def first_line(error: BaseException) -> str:
    """An error's text as part of a one-line message."""
    lines = str(error).strip().splitlines()
    return f"{lines[0].strip().rstrip('.')}" if lines else type(error).__name__


class EngineFull(RacerError):
    """The engine's queue is full: try again later."""


class RequestTooLong(RacerError, ValueError):
    """A request that the engine's cache, or the model's context, can never hold."""


class EngineClosed(RacerError):
    """The engine has been closed, or its last batch failed beyond repair."""
