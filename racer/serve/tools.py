"""Tools: what the model must write to call one, and what it wrote."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from racer.engine.continuous.stream import TokenScore
from racer.serve.grammar import with_whitespace
from racer.serve.protocol.chat import Tool
from racer.serve.text import Held, Unit, begun

OPEN, CLOSE = "<tool_call>", "</tool_call>"
"""How Hermes' and Qwen's templates write a call."""


@attrs.frozen
class CallUnit:
    """A piece of a tool call."""

    index: int
    """Which of the answer's calls."""
    arguments: str
    """Some more of them, as JSON text."""
    drafted: bool
    id: str | None = None
    """Its first piece has this, and the name."""
    name: str | None = None
    scores: tuple[TokenScore, ...] = ()


Piece = Unit | CallUnit
"""What a chunk of a stream can hold."""


class PlainReader:
    """All text is the answer."""

    called = False
    """Whether a tool was called."""

    def read(self, units: Sequence[Unit]) -> list[Piece]:
        """What becomes certain with some more text."""
        return list(units)

    def end(self) -> list[Piece]:
        """What is left."""
        return []


@attrs.frozen
class Frame:
    """What stands around the arguments of a forced call: an object with ``name`` and ``arguments``."""

    name: str
    tagged: bool
    """Whether it is written between the tags that the model's template has."""

    @property
    def before(self) -> str:
        return f'{OPEN + chr(10) if self.tagged else ""}{{"name": "{self.name}", "arguments": '

    @property
    def behind(self) -> str:
        return "}" + (f"\n{CLOSE}" if self.tagged else "")


def has_tags(template: str) -> bool:
    """Whether a chat template writes calls between the tags."""
    return OPEN in template


def special_tags(tokenizer: Any) -> dict[int, str]:
    """The tags that are special tokens, which are no text otherwise."""
    known = tokenizer.added_tokens_decoder.items()
    return {number: str(token) for number, token in known if token.special and str(token) in (OPEN, CLOSE)}


def frames(tools: Sequence[Tool], name: str | None, template: str) -> list[Frame]:
    """Of the tools that may be called: all, or the one of that name."""
    tagged = has_tags(template)
    return [Frame(tool.function.name, tagged) for tool in tools if name in (None, tool.function.name)]


def forced_grammar(tools: Sequence[Tool], allowed: Sequence[Frame]) -> str:
    """One call of one of them, in Lark's syntax as llguidance takes it."""
    schemas = {tool.function.name: {"type": "object", **(tool.function.parameters or {})} for tool in tools}
    rules = [f"start: {' | '.join(f'call_{number}' for number in range(len(allowed)))}"]
    for number, frame in enumerate(allowed):
        rules.append(f"call_{number}: {json.dumps(frame.before)} args_{number} {json.dumps(frame.behind)}")
        rules.append(f"args_{number}: %json {with_whitespace(schemas[frame.name])}")
    return "\n".join(rules)


class ForcedReader:
    """The arguments of the one call that the grammar lets the model write, as they come."""

    def __init__(self, allowed: Sequence[Frame]) -> None:
        self._frames = allowed
        self._frame: Frame | None = None
        self._held = Held()
        self._given = ""
        """Of the arguments."""
        self.called = False

    def read(self, units: Sequence[Unit]) -> list[Piece]:
        for unit in units:
            self._held.add(unit)
        pieces: list[Piece] = []
        if self._frame is None:
            self._frame = next((one for one in self._frames if self._held.text.startswith(one.before)), None)
            if self._frame is None:
                return []
            scores = [score for unit in self._held.take(len(self._frame.before)) for score in unit.scores]
            pieces.append(CallUnit(0, "", False, new_id(), self._frame.name, tuple(scores)))
            self.called = True
        certain = max(0, len(self._held.text) - len(self._frame.behind))
        return pieces + self._arguments(certain)

    def end(self) -> list[Piece]:
        """The rest; of an answer that was cut short, all of it."""
        if self._frame is None:  # not even the name is there
            return []
        rest = self._held.text.removesuffix(self._frame.behind)
        if not _is_json(self._given + rest):  # cut short where it looks like the end
            rest = self._held.text
        pieces = self._arguments(len(rest))
        self._held.drop()
        return pieces

    def _arguments(self, length: int) -> list[Piece]:
        self._given += self._held.text[:length]
        return [CallUnit(0, unit.text, unit.drafted, scores=unit.scores) for unit in self._held.take(length)]


class TaggedReader:
    """Text, and calls between tags within it; what stands between tags and is no call of a known tool stays text.

    :param one: whether only the first call counts; others are left out.
    """

    def __init__(self, tools: Sequence[Tool], one: bool = False) -> None:
        self._one = one
        self._names = [tool.function.name for tool in tools]
        self._held = Held()
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._calls > 0

    def read(self, units: Sequence[Unit]) -> list[Piece]:
        for unit in units:
            self._held.add(unit)
        return list(self._certain())

    def end(self) -> list[Piece]:
        """The rest; a call that is whole but for its closing tag counts."""
        pieces = list(self._certain())
        if self._held.text.startswith(OPEN):
            return pieces + list(self._call(len(self._held.text)))
        return pieces + self._texts(len(self._held.text))

    def _certain(self) -> Iterator[Piece]:
        while self._held.text:
            start = self._held.text.find(OPEN)
            if start < 0:
                yield from self._texts(len(self._held.text) - begun(self._held.text, (OPEN,)))
                return
            yield from self._texts(start)
            end = self._held.text.find(CLOSE)
            if end < 0:
                return
            yield from self._call(end + len(CLOSE))

    def _texts(self, length: int) -> list[Piece]:
        """Text; between calls there is nothing but line breaks, which are dropped."""
        units = self._held.take(length)
        if self._calls and not "".join(unit.text for unit in units).strip():
            return []
        return list(units)

    def _call(self, length: int) -> Iterator[Piece]:
        units = self._held.take(length)
        text = "".join(unit.text for unit in units).removeprefix(OPEN).removesuffix(CLOSE)
        found = parsed(text, self._names)
        if found is None:
            yield from units
            return
        if self._one and self._calls:
            return
        name, arguments = found
        scores = tuple(score for unit in units for score in unit.scores)
        drafted = all(unit.drafted for unit in units)
        yield CallUnit(self._calls, arguments, drafted, new_id(), name, scores)
        self._calls += 1


Reader = PlainReader | ForcedReader | TaggedReader


def parsed(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Name and arguments of a written call; None if it is none of these tools'."""
    try:
        call = json.loads(text)
        if not isinstance(call, dict) or call.get("name") not in names or not isinstance(call.get("arguments"), dict):
            return None
        # with escapes, as half a character could not be sent otherwise; infinities cannot be written at all
        return call["name"], json.dumps(call["arguments"], allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def new_id() -> str:
    """Of a call."""
    return f"call_{secrets.token_hex(12)}"
