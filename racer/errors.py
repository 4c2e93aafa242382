"""Every error that RACER raises on purpose. Each message says what was wrong and what is accepted."""


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


def first_line(error: BaseException) -> str:
    """An error's text as part of a one-line message."""
    lines = str(error).strip().splitlines()
    return f"{lines[0].strip().rstrip('.')}" if lines else type(error).__name__
