"""What was said, and how it is written down."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from racer.errors import ConfigError
from racer.files import write_whole

Message = dict[str, str]


@attrs.define
class Turn:
    """A question and what was answered; stopped answers are as long as they came."""

    question: str
    answer: str


@attrs.define
class Conversation:
    """A chat from its beginning, and from where on the model is told of it."""

    system: str | None = None
    turns: list[Turn] = attrs.field(factory=list)
    forgotten: int = 0
    """So many of the oldest turns the model is not told of any more."""

    def messages(self, question: str | None = None) -> list[Message]:
        """What the model is told, the question at the end."""
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns[self.forgotten :]:
            said += _pair(turn)
        return said if question is None else [*said, {"role": "user", "content": question}]

    def undo(self) -> Turn | None:
        """Take the last turn back; None if there is none."""
        if not self.turns:
            return None
        turn = self.turns.pop()
        self.forgotten = min(self.forgotten, len(self.turns))
        return turn

    def clear(self) -> None:
        """Begin anew, with the same system prompt."""
        self.turns.clear()
        self.forgotten = 0

    def save(self, path: Path) -> None:
        """Write all of it: as ``{"messages": [...]}`` if the name ends in ``.json``, else as Markdown.

        :raises OSError: it cannot be written.
        :raises ConfigError: nothing has been said.
        """
        if not self.turns:
            raise ConfigError("nothing has been said yet")
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        said += [message for turn in self.turns for message in _pair(turn)]
        if path.suffix == ".json":
            text = json.dumps({"messages": said}, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "\n".join(f"**{message['role'].capitalize()}:**\n\n{message['content']}\n" for message in said)
        write_whole(path, text)


def _pair(turn: Turn) -> list[Message]:
    return [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
