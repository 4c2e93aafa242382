"""What a server is told: names, keys, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from racer.errors import ConfigError

PAGE = Path(__file__).parent / "page"
"""The folder of the browser page."""
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
"""Names under which only this machine is reached."""


def _check_keys(_: object, __: object, keys: tuple[str, ...]) -> None:
    if any(not key.strip() or not key.isascii() or not key.isprintable() for key in keys):
        raise ConfigError("an API key is a text of printable ASCII characters that is not empty")
    if len(set(keys)) != len(keys):
        raise ConfigError("an API key is given twice: each is a tenant of its own")


def _check_positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{field.name} must be above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class ServiceSettings:
    """How a server behaves towards its clients.

    :raises ConfigError: a value is out of range; the message says what is accepted.
    """

    served_name: str
    """What clients call the model."""
    api_keys: tuple[str, ...] = attrs.field(default=(), validator=_check_keys, repr=False)
    """One of them must come with each request; none: everybody may ask."""
    default_limit: int = attrs.field(default=1024, validator=_check_positive)
    """New tokens of a chat's answer where the request names no limit: what an answer may take is kept free for it."""
    max_body: int = attrs.field(default=2**20, validator=_check_positive)
    """Most bytes of a request's body."""
    timeout: float = attrs.field(default=600.0, validator=_check_positive)
    """Most seconds from a request's arrival to the end of its answer; for its body to come, an event to be read."""
    max_waiting: int | None = None
    """Requests that the engine lets wait; None: that is not known."""
    max_connections: int | None = attrs.field(default=None, validator=attrs.validators.optional(_check_positive))
    """Clients that may be connected at once; None: any number."""
    drain: float = attrs.field(default=30.0, validator=_check_positive)
    """Seconds that running requests have to end when the server is told to stop."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser."""
    hosts: tuple[str, ...] = ()
    """Accepted names in the ``Host`` header; none: any."""
    page: Path = PAGE
