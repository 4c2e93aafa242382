"""The chat's loop, over a real engine: answers, commands, interrupts, a context that is full."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from transformers import LogitsProcessor

import racer
from racer.chat.answers import Answerer
from racer.chat.chat import Chat
from racer.chat.commands import COMMANDS
from racer.chat.conversation import Conversation, Turn
from racer.chat.readers import Lines
from racer.loading import models
from racer.loading.detokenizer import decode
from racer.loading.loaded_model import LoadedModel, sampling_arguments


@pytest.fixture(scope="module")
def loaded(folder_of_long_contexts: Path) -> LoadedModel:
    return models.load(str(folder_of_long_contexts), dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[racer.Engine]:
    config = racer.DecodeConfig(budget=16)  # by itself it drafts as much as pays, and in tests nothing may pay
    with racer.Engine(loaded.model, config, max_tokens=2048, max_rows=1, kept_tokens=2048) as engine:
        yield engine


@attrs.define
class Room:
    """A chat, and all that it wrote and told."""

    chat: Chat
    written: list[tuple[str, bool]]
    told: list[str]

    def say(self, *lines: str) -> str:
        """What it writes to these lines."""
        self.written.clear()
        self.told.clear()
        self.chat.run(Lines(lines))
        return "".join(text for text, _ in self.written)


@pytest.fixture
def room(loaded: LoadedModel, engine: racer.Engine) -> Any:
    def made(context: int = 2048, length: int = 12, temperature: float = 0, system: str | None = None) -> Room:
        arguments = sampling_arguments(bool(temperature), temperature) | {"pad_token_id": loaded.pad_token_id}
        seed = 1 if temperature else None
        answerer = Answerer(loaded, engine, arguments, max_new_tokens=length, context=context, seed=seed)
        written: list[tuple[str, bool]] = []
        told: list[str] = []
        chat = Chat(answerer, lambda *piece: written.append(piece), told.append, Conversation(system))
        return Room(chat, written, told)

    return made


def plain(loaded: LoadedModel, conversation: Conversation, question: str, length: int = 12) -> str:
    """What transformers answers."""
    given = loaded.encode(conversation.messages(question))
    with models.quiet():
        tokens = loaded.model.generate(**given, do_sample=False, max_new_tokens=length, pad_token_id=0)[0]
    return decode(loaded.tokenizer, tokens[given["input_ids"].shape[1] :].tolist())


def test_every_turn_is_answered_as_plain_decoding_would(room: Any, loaded: LoadedModel) -> None:
    ours, expected = room(system="Be kind."), Conversation("Be kind.")
    for question in ("The quick brown fox", "and the dog?", "The quick brown fox"):
        text = plain(loaded, expected, question)
        assert ours.say(question) == text + "\n"
        expected.turns.append(Turn(question, text))
        assert ours.told[0] == "(cut at 12 tokens)"
    assert ours.chat.conversation == expected
    assert ours.chat.total.new_tokens == 36


def test_the_next_turn_scores_only_what_is_new(room: Any) -> None:
    ours = room()
    ours.say("The quick brown fox jumps over the lazy dog, and the dog sleeps on.")
    first = ours.chat.total
    ours.say("A tree is parents")
    reused = ours.chat.total.cached_tokens - first.cached_tokens
    assert reused >= first.prompt_tokens - 1
    assert f"{reused} of " in ours.told[-1]
    assert ours.told[-1].endswith("prompt tokens reused")


def test_drafted_text_is_marked(room: Any) -> None:
    ours = room(length=300)
    ours.say("The quick brown fox", "The quick brown fox")  # a random model runs in circles sooner or later
    drafted = "".join(text for text, guessed in ours.written if guessed)
    assert ours.chat.total.accepted > 0
    assert drafted
    assert f"{ours.chat.total.accepted}" in str(ours.chat.total)


def test_commands(room: Any, tmp_path: Path) -> None:
    ours = room()
    first = ours.say("one")
    second = ours.say("two")
    ours.say("/help")
    assert all(any(line.startswith(f"/{name}") for line in ours.told) for name in COMMANDS)
    ours.say("/system Be brief.", "/system")
    assert ours.told == ["the system prompt: Be brief."] * 2
    assert ours.say("/retry")
    assert [turn.question for turn in ours.chat.conversation.turns] == ["one", "two"]
    assert "greedy" in ours.told[0]
    ours.say("/system -")
    assert ours.told == ["there is no system prompt"]
    assert ours.say("/retry") == second
    assert ours.chat.conversation.turns[0] == Turn("one", first.removesuffix("\n"))
    ours.say("/stats")
    assert ours.told[0] == "2 turns, 0 of them forgotten"
    assert f"of {ours.chat.answerer.context} tokens of context" in ours.told[2]
    path = tmp_path / "chat.json"
    ours.say(f"/save {path}", f"/save {path}", f"/save {tmp_path / 'chat.md'}", "/save", f"/save {tmp_path}/no/chat")
    assert ours.told[:2] == [f"saved in {path}"] * 2
    assert "/save needs the name" in ours.told[3]
    assert "cannot be written: No such file" in ours.told[4]
    assert json.loads(path.read_text())["messages"] == ours.chat.conversation.messages()
    assert (tmp_path / "chat.md").read_text().startswith("**User:**\n\none\n")
    ours.say("/undo")
    assert ours.told == ["taken back: two"]
    ours.say("/clear", "/undo", "/retry", f"/save {path}")
    assert ours.told[1:] == ["there is nothing to take back", "there is no question to answer again",
                             "nothing has been said yet"]  # fmt: skip
    ours.say("/nonsense", "/quit", "never read")
    assert ours.told == ["there is no command /nonsense: /help lists them, and // begins a message with a slash"]
    assert not ours.chat.conversation.turns
    ours.say("//help me")
    assert ours.chat.conversation.turns[0].question == "/help me"


def test_files_that_are_there_are_not_overwritten(room: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("mine")
    ours = room()
    ours.say("one", f"/save {path}")
    assert ours.told[-1] == f"{path} is there already: give another name"
    assert path.read_text() == "mine"


def test_a_sampled_answer_can_be_another_one(room: Any) -> None:
    ours, again = room(temperature=1), room(temperature=1)
    first = ours.say("The dog")
    assert ours.say("/retry") != first
    assert "greedy" not in ours.told[0]
    assert again.say("The dog") == first  # by the chat's seed


def test_an_interrupt_stops_the_answer_and_keeps_the_chat(room: Any) -> None:
    ours = room(length=1500)

    def write(text: str, drafted: bool) -> None:
        ours.written.append((text, drafted))
        if len(ours.written) == 3:
            signal.raise_signal(signal.SIGINT)

    ours.chat.write = write
    before = signal.getsignal(signal.SIGINT)
    text = ours.say("The quick brown fox")
    assert ours.told[0] == "(stopped)"
    assert signal.getsignal(signal.SIGINT) is before
    (turn,) = ours.chat.conversation.turns
    assert (turn.question, turn.answer) == ("The quick brown fox", text.removesuffix("\n"))
    assert 0 < ours.chat.total.new_tokens < 1500
    ours.chat.answerer._longest = 5
    assert ours.say("and?")
    assert len(ours.chat.conversation.turns) == 2


def test_a_second_interrupt_ends_the_chat(room: Any) -> None:
    ours = room(length=1500)

    def write(text: str, drafted: bool) -> None:
        signal.raise_signal(signal.SIGINT)  # which asks the answer to stop
        signal.raise_signal(signal.SIGINT)

    ours.chat.write = write
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            ours.say("The quick brown fox")
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ours.chat.conversation.turns) == 1  # what was said can still be saved


def test_a_full_context_forgets_the_oldest_turns(room: Any, loaded: LoadedModel) -> None:
    ours = room(context=100, length=20)
    for number in range(8):
        assert ours.say(f"question {number}")
    conversation = ours.chat.conversation
    assert len(conversation.turns) == 8
    assert 0 < conversation.forgotten < 8
    assert ours.chat.used <= 100
    ours.say("/stats")
    assert ours.told[0] == f"8 turns, {conversation.forgotten} of them forgotten"
    notes: list[str] = []
    for number in range(8):
        ours.say(f"question {number}")
        notes += [line for line in ours.told if "is full" in line]
    assert 0 < len(notes) < 6, "some room is made at once"
    assert "(the context of 100 tokens is full: the oldest" in notes[0]
    assert "/clear begins anew" in notes[0]
    kept = loaded.encode(conversation.messages())["input_ids"].shape[1]
    assert kept <= 100
    ours.chat.conversation.turns = conversation.turns[: conversation.forgotten]
    ours.say("/undo")
    assert conversation.forgotten == len(conversation.turns)


def test_a_message_that_can_never_fit_is_refused(room: Any) -> None:
    ours = room(context=100)
    ours.say("one", "a dog " * 200, "two")
    assert "but the context has room for 100: shorten it" in ours.told[2]
    assert [turn.question for turn in ours.chat.conversation.turns] == ["one", "two"]
    assert ours.chat.conversation.forgotten == 0


def test_a_step_that_fails_does_not_end_the_chat(room: Any) -> None:
    class Broken(LogitsProcessor):
        racer_row_wise = True

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            raise RuntimeError("out of memory\nmore of it")

    ours = room()
    whole = ours.chat.answerer._arguments
    ours.chat.answerer._arguments = whole | {"logits_processor": [Broken()]}
    ours.say("one", "/stats")
    assert ours.told[0] == "this cannot be answered: RuntimeError: out of memory"
    assert ours.told[1].startswith("1 turns")
    ours.chat.answerer._arguments = whole
    assert ours.say("/retry")
    assert [turn.question for turn in ours.chat.conversation.turns] == ["one"]


def test_what_cannot_be_answered_again_stays(room: Any) -> None:
    ours = room()
    ours.say("one", "two")
    before = list(ours.chat.conversation.turns)
    ours.chat.answerer.context = 3
    ours.say("/retry")
    assert "shorten it" in ours.told[-1]
    assert ours.chat.conversation.turns == before
