"""Whatever a plugin writes into what it is shown, the tokens are right."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from racer import DecodeConfig, Decoder, Logits, hookimpl
from racer.guard import complaints
from racer.step.request import ReadOnlyList, Request, add_token, end
from racer.testing import decode, decode_plainly, toy_model

VOCAB = 6
MODEL = toy_model(VOCAB)
PROMPTS = [[1, 2, 3, 1, 2], [4, 5]]
PLAIN = {sample: decode_plainly(MODEL, PROMPTS, 10, do_sample=sample) for sample in (False, True)}

Write = Callable[[Any], Any]

OF_A_REQUEST: dict[str, Write] = {
    "append": lambda request: request.tokens.append(0),
    "extend": lambda request: request.tokens.extend([0, 1]),
    "insert": lambda request: request.tokens.insert(0, 1),
    "set the last token": lambda request: request.tokens.__setitem__(-1, 0),
    "set a slice": lambda request: request.tokens.__setitem__(slice(None), [0]),
    "delete": lambda request: request.tokens.__delitem__(0),
    "pop": lambda request: request.tokens.pop(),
    "remove": lambda request: request.tokens.remove(request.tokens[0]),
    "clear": lambda request: request.tokens.clear(),
    "sort": lambda request: request.tokens.sort(),
    "reverse": lambda request: request.tokens.reverse(),
    "add in place": lambda request: request.tokens.__iadd__([1]),
    "repeat in place": lambda request: request.tokens.__imul__(2),
    "lengths": lambda request: request.accept_lengths.clear(),
    **{
        f"rebind {name}": lambda request, name=name, value=value: setattr(request, name, value)
        for name, value in {
            "tokens": [0], "prompt": (), "padding": (0,), "limit": 1, "seed": 99, "id": 0, "done": True,
            "accept_lengths": [],
        }.items()
    },
}  # fmt: skip
OF_A_VIEW: dict[str, Write] = {
    "root": lambda view: view.root.fill_(0),
    "position": lambda view: view.position.add_(3),
    "seeds": lambda view: view.seeds.zero_(),
    **{f"rebind {name}": lambda view, name=name: setattr(view, name, None) for name in ("root", "active", "requests")},
}
OF_A_TREE: dict[str, Write] = {
    name: lambda tree, name=name: getattr(tree, name).zero_() for name in ("tokens", "parent", "count", "source")
}
OF_A_VERDICT: dict[str, Write] = {
    "forget host": lambda verdict: setattr(verdict, "host", None),
    **{
        f"tensor {name}": lambda verdict, name=name: getattr(verdict, name).zero_()
        for name in ("path", "length", "next_token", "top_ids", "top_probs")
    },
    **{
        f"host {name}": lambda verdict, name=name: getattr(verdict.host, name).fill(0)
        for name in ("path", "length", "next_token", "tokens", "parent", "count", "source", "faults", "top_ids")
    },
}
WRITES = {
    **{f"request: {name}": write for name, write in OF_A_REQUEST.items()},
    **{f"view: {name}": write for name, write in OF_A_VIEW.items()},
    **{f"tree: {name}": write for name, write in OF_A_TREE.items()},
    **{f"verdict: {name}": write for name, write in OF_A_VERDICT.items()},
}


def writes(shown: str, write: Write) -> Callable[..., None]:
    """``write`` to everything of the kind ``shown`` that is among these."""

    def do(**given: Any) -> None:
        if shown == "request":
            for request in (given["request"],) if "request" in given else given["view"].requests:
                write(request)
        elif shown in given:
            write(given[shown])

    return do


class WritingDrafter(Logits):
    name = "writes"

    def __init__(self, do: Callable[..., None]) -> None:
        super().__init__(3)
        self.do = do

    def opened(self, request: Any) -> None:
        self.do(request=request)

    def draft(self, view: Any, budget: int) -> Any:
        tree = super().draft(view, budget)
        self.do(view=view)
        return tree

    def observe(self, view: Any, tree: Any, verdict: Any) -> None:
        super().observe(view, tree, verdict)
        self.do(view=view, tree=tree, verdict=verdict)


class WritingPlugin:
    def __init__(self, do: Callable[..., None]) -> None:
        self.do = do

    @hookimpl
    def racer_request_opened(self, request: Any) -> None:
        self.do(request=request)

    @hookimpl
    def racer_budget(self, view: Any) -> None:
        self.do(view=view)

    @hookimpl(wrapper=True)
    def racer_draft(self, view: Any, budget: int) -> Any:
        tree = yield
        self.do(view=view)
        return tree

    @hookimpl(wrapper=True)
    def racer_verify(self, view: Any, tree: Any, logits: Any) -> Any:
        self.do(view=view, tree=tree)
        verdict = yield
        self.do(view=view, tree=tree)
        return verdict

    @hookimpl
    def racer_step(self, view: Any, tree: Any, verdict: Any, stats: Any) -> None:
        self.do(view=view, tree=tree, verdict=verdict)


class Writes(WritingDrafter):
    """Raises nothing, so that each write is tried in every step."""

    def __init__(self, do: Callable[..., None]) -> None:
        def quietly(**given: Any) -> None:
            try:
                do(**given)
            except Exception as error:
                errors.append(error)

        errors: list[Exception] = []
        super().__init__(quietly)


@pytest.mark.parametrize("mode", ["off", "static"])
@pytest.mark.parametrize("case", WRITES)
def test_a_write_changes_no_token(case: str, mode: str) -> None:
    do = writes(case.split(":")[0], WRITES[case])
    for who in ("drafter", "plugin"):
        how: dict[str, Any] = {"budget": 8, "compile": mode, "prefill_chunk": 4}
        how |= {"drafter": Writes(do)} if who == "drafter" else {"drafter": "logits", "plugins": [WritingPlugin(do)]}
        for sample in (False, True):
            with complaints():
                got, stats = decode(Decoder(MODEL, DecodeConfig(**how)), PROMPTS, 10, do_sample=sample)
            assert got == PLAIN[sample], who
            assert stats.new_tokens == 20


def test_a_request_is_read_like_a_list_and_copied_as_one() -> None:
    request = Request((1, 2, 3))
    add_token(request, 4)
    assert request.tokens == [1, 2, 3, 4]
    assert request.tokens[1:] + [5] == [2, 3, 4, 5]
    request.tokens[1:].append(5)
    request.tokens.copy().clear()
    for twin in (copy.copy(request), copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
        assert twin.tokens == [1, 2, 3, 4]
        assert isinstance(twin.tokens, ReadOnlyList)
    end(request)
    assert request.done
    assert request.emitted == [4]


def test_every_method_that_changes_a_list_is_refused() -> None:
    reading = {"copy", "count", "index", "__init__", "__new__", "__class_getitem__"}
    changing = {name for name in vars(list) if callable(getattr(list, name)) and name not in reading}
    for name in sorted(changing):
        before = [3, 1, 2]
        for arguments in ((), (0,), (0, 1), ([7],)):
            kept, plain = ReadOnlyList(before), list(before)
            try:
                getattr(plain, name)(*arguments)
            except Exception:
                continue
            if plain != before:
                with pytest.raises(TypeError, match="read-only"):
                    getattr(kept, name)(*arguments)
            assert kept == before
