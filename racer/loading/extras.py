"""Libraries that only some users need, and that an extra of the package brings."""

from __future__ import annotations

from importlib.util import find_spec

from racer.errors import ConfigError

EXTRAS = {
    "bench": ("cattrs", "jinja2", "markdown_it", "matplotlib"),
    "chat": ("prompt_toolkit",),
    "gguf": ("accelerate", "gguf"),
    "serve": ("fastapi", "llguidance", "prometheus_client", "sse_starlette", "uvicorn"),
}
"""By the extra's name: the modules that it brings."""


def require(extra: str, purpose: str) -> None:
    """Tell at once, and in one line, what would fail later.

    :param purpose: who needs the libraries, as the beginning of the message.
    :raises ConfigError: one of them is not installed; the message names the mend.
    """
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise ConfigError(f'{purpose} needs {" and ".join(missing)}: pip install "racer-decoding[{extra}]"')
