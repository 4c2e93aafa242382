"""Records of a run as JSON and back. One converter for all of them: what a class does not say is refused."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cattrs import BaseValidationError, transform_error
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

Record = TypeVar("Record")


class WrongType(ValueError):
    """A value is not of the type that its field has; the message says which that is."""


def _exactly(kind: type[Any], *accepted: type[Any]) -> Callable[[Any, Any], Any]:
    """A hook that takes values of the accepted types, where cattrs would convert whatever can be converted."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) not in accepted:  # True is no number
            raise WrongType(f"expected {kind.__name__}, not {reprlib.repr(value)}")
        return kind(value)

    return structure


converter = make_converter(forbid_extra_keys=True)
converter.register_structure_hook(int, _exactly(int, int))
converter.register_structure_hook(float, _exactly(float, float, int))
converter.register_structure_hook(str, _exactly(str, str))
converter.register_structure_hook(bool, _exactly(bool, bool))


def structured(data: Any, kind: type[Record]) -> Record:
    """What JSON held, as a record.

    :raises ValueError: it is not of this shape; the one-line message says where, as ``... @ $.measured.tokens[0]``.
    """
    if not isinstance(data, Mapping):
        raise WrongType(f"expected an object, not {reprlib.repr(data)}")
    try:
        return converter.structure(data, kind)
    except BaseValidationError as error:
        raise ValueError(transform_error(error, format_exception=_told)[0]) from error


def plain(record: Any) -> dict[str, Any]:
    """A record as JSON has it."""
    data: dict[str, Any] = converter.unstructure(record)
    return data


def line(record: Any) -> str:
    """A record as one line of a file.

    :raises ValueError: it holds a number that JSON has not, such as NaN.
    """
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def _told(error: BaseException, kind: type | None) -> str:
    if isinstance(error, WrongType):
        return str(error)
    if isinstance(error, AttributeError):  # cattrs asks whatever stands for a record for its keys
        return "expected an object"
    return format_exception(error, kind)
