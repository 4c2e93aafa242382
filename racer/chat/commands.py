"""What can be typed besides questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from racer.errors import RacerError

if TYPE_CHECKING:
    from racer.chat.chat import Chat

KEYS = "Enter sends, Alt+Enter or Ctrl+J begins a new line, Ctrl+C stops an answer, Ctrl+D quits"


class Quit(Exception):
    """The user has had enough."""


def run(chat: Chat, text: str) -> None:
    """Do what a line that begins with ``/`` says.

    :raises Quit: it is ``/quit``.
    :raises RacerError: there is no such command, or it cannot be done now.
    """
    name, _, rest = text[1:].partition(" ")
    if name not in COMMANDS:
        raise RacerError(f"there is no command /{name}: /help lists them, and // begins a message with a slash")
    COMMANDS[name][1](chat, rest.strip())


def _help(chat: Chat, rest: str) -> None:
    for name, (words, _) in COMMANDS.items():
        chat.tell(f"/{name:<8} {words}")
    chat.tell(KEYS)


def _system(chat: Chat, rest: str) -> None:
    if rest:
        chat.conversation.system = None if rest == "-" else rest
    system = chat.conversation.system
    chat.tell("there is no system prompt" if system is None else f"the system prompt: {system}")


def _retry(chat: Chat, rest: str) -> None:
    conversation = chat.conversation
    forgotten, count = conversation.forgotten, len(conversation.turns)
    turn = conversation.undo()
    if turn is None:
        raise RacerError("there is no question to answer again")
    if not chat.answerer.samples:
        chat.tell("(greedy decoding: the same answer, unless the system prompt has changed; --temperature samples)")
    try:
        chat.ask(turn.question)
    finally:
        if len(conversation.turns) < count:  # nothing was begun
            conversation.turns.append(turn)
            conversation.forgotten = forgotten


def _undo(chat: Chat, rest: str) -> None:
    turn = chat.conversation.undo()
    chat.tell("there is nothing to take back" if turn is None else f"taken back: {turn.question}")


def _clear(chat: Chat, rest: str) -> None:
    chat.conversation.clear()
    chat.tell("a new chat")


def _save(chat: Chat, rest: str) -> None:
    if not rest:
        raise RacerError("/save needs the name of a file; one that ends in .json becomes JSON, any other Markdown")
    path = Path(rest).expanduser()
    if path.exists() and path not in chat.saved:
        raise RacerError(f"{path} is there already: give another name")
    try:
        chat.conversation.save(path)
    except OSError as error:
        raise RacerError(f"{path} cannot be written: {error.strerror or error}") from error
    chat.saved.add(path)
    chat.tell(f"saved in {path}")


def _stats(chat: Chat, rest: str) -> None:
    conversation, total = chat.conversation, chat.total
    chat.tell(f"{len(conversation.turns)} turns, {conversation.forgotten} of them forgotten")
    chat.tell(f"{total.new_tokens} tokens in {total.seconds:.1f} s: {total}")
    chat.tell(f"the last prompt and answer took {chat.used} of {chat.answerer.context} tokens of context")


def _quit(chat: Chat, rest: str) -> None:
    raise Quit


COMMANDS: dict[str, tuple[str, Callable[[Chat, str], None]]] = {
    "help": ("this list", _help),
    "system": ("TEXT: set the system prompt; - drops it, nothing shows it", _system),
    "retry": ("answer the last question again", _retry),
    "undo": ("take the last question and its answer back", _undo),
    "clear": ("forget all that was said", _clear),
    "save": ("FILE: write the chat into a file", _save),
    "stats": ("the figures of the whole chat", _stats),
    "quit": ("leave", _quit),
}
"""By name: what it does, in words and in deed."""
