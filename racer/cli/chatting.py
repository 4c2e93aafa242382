"""One ``racer chat`` as the user sees it. Imports torch: the command imports it late."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

import racer
from racer.chat.answers import Answerer
from racer.chat.chat import Chat, Reader
from racer.chat.conversation import Conversation
from racer.chat.readers import Lines, Terminal, history_file
from racer.cli import render
from racer.loading import models
from racer.loading.loaded_model import LoadedModel, sampling_arguments

if TYPE_CHECKING:
    from racer.cli.chat import ChatOptions


def run(options: ChatOptions, *, terminal: bool) -> None:
    """Chat until the user has had enough.

    :param terminal: whether somebody types, or lines come from a pipe.
    :raises RacerError: the model cannot be loaded, or the engine failed.
    """
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: there is nobody to chat with")
    config = options.config()
    loaded = options.load()
    context = _context(loaded, options.max_tokens)
    with (
        models.quiet(),
        racer.Engine(
            loaded.model, config, max_tokens=context, max_rows=1, max_waiting=1, kept_tokens=context
        ) as engine,
    ):
        answerer = Answerer(
            loaded,
            engine,
            _arguments(options, loaded),
            max_new_tokens=options.max_new_tokens,
            context=context,
            seed=_seed(options),
        )
        tell = _dimmed if terminal else render.note
        chat = Chat(answerer, render.TextSink(sys.stdout), tell, Conversation(options.system))
        if terminal:
            tell(f"{loaded.name}, a context of {context} tokens; /help lists the commands")
        chat.run(_reader(terminal))


def _reader(terminal: bool) -> Reader:
    return Terminal(history_file()) if terminal else Lines(sys.stdin)


def _context(loaded: LoadedModel, most: int) -> int:
    """Tokens that a prompt and its answer may have."""
    room = loaded.room(1)
    return most if room is None else min(most, room + 1)


def _arguments(options: ChatOptions, loaded: LoadedModel) -> dict[str, object]:
    sampling = sampling_arguments(bool(options.temperature), options.temperature, options.top_p)
    return {**sampling, "pad_token_id": loaded.pad_token_id}


def _seed(options: ChatOptions) -> int | None:
    if not options.temperature:
        return None
    return secrets.randbelow(2**31) if options.seed is None else options.seed


def _dimmed(text: str) -> None:
    """A line about the chat, on a terminal: paler than what is said."""
    Console(file=sys.stderr).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
