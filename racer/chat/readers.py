"""Where questions come from: a terminal, with editing and history, or lines of a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from racer.chat.commands import COMMANDS

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output


class Lines:
    """Every line that is not empty is a question or a command."""

    def __init__(self, source: Iterable[str]) -> None:
        self._source = iter(source)

    def read(self) -> str | None:
        """The next line."""
        return next(self._source, None)


class Terminal:
    """A prompt with many lines: Enter sends, Alt+Enter or Ctrl+J begins a new one.

    :param history: what was typed in earlier chats, and is in this one; None keeps nothing.
    :param source: the terminal's input, where that is not standard input.
    :param output: likewise.
    """

    def __init__(self, history: Path | None, source: Input | None = None, output: Output | None = None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.shortcuts import CompleteStyle

        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="  ",
            completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            input=source,
            output=output,
        )

    def read(self) -> str | None:
        """What is typed next; None after Ctrl+D or Ctrl+C at an empty prompt. Bytes that are no text are replaced."""
        try:
            return self._session.prompt("> ").encode(errors="replace").decode()
        except (EOFError, KeyboardInterrupt):
            return None


def history_file() -> Path:
    """Where the user's data is kept: what was typed, one entry after another."""
    return Path(platformdirs.user_data_dir("racer", appauthor=False)) / "chat_history"


def _history(path: Path | None) -> History:
    """A file that only the user can read; without one, or where it cannot be made, nothing is kept."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _drop_or_quit(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @keys.add("<sigint>")
    def _come_too_late(event: KeyPressEvent) -> None:
        """Ctrl+C for an answer that had just ended; at a prompt, it is a key."""

    return keys
