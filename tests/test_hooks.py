"""Every hook works, and is documented and tested: this file reads the hookspecs and looks for both."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from racer import DecodeConfig, Decoder, DraftTree, Needs, Request, StepView, Verdict, hookimpl, hookspecs
from racer.step.stats import DecodeStats, StepStats
from racer.testing import decode, decode_plainly, toy_model

ROOT = Path(__file__).parent.parent
HOOKS = [name for name in vars(hookspecs) if name.startswith("racer_")]
MODEL = toy_model(6)
PROMPTS = [[1, 2, 3, 1, 2], [4, 5]]
PLAIN = decode_plainly(MODEL, PROMPTS, 20)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_tested(hook: str) -> None:
    contract = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert contract.endswith(".")
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    assert f"`{hook}`" in page
    assert f"def {hook}(" in page, "with an example"
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    assert f"def {hook}(" in tests


def test_all_hooks_are_there() -> None:
    assert set(HOOKS) == {
        "racer_register", "racer_request_opened", "racer_request_closed", "racer_budget", "racer_draft", "racer_verify",
        "racer_step",
    }  # fmt: skip


class Diary:
    """Observes everything."""

    needs = Needs(top_k=2, probs=True, prompt=Needs.ALL)

    def __init__(self) -> None:
        self.opened: list[Request] = []
        self.closed: list[tuple[Request, DecodeStats]] = []
        self.steps: list[tuple[StepView, DraftTree, Verdict, StepStats]] = []

    @hookimpl
    def racer_request_opened(self, request: Request) -> None:
        assert request.tokens == list(request.prompt)
        self.opened.append(request)

    @hookimpl
    def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats) -> None:
        self.steps.append((view, tree, verdict, stats))

    @hookimpl
    def racer_request_closed(self, request: Request, stats: DecodeStats) -> None:
        self.closed.append((request, stats))


def decode_with(*plugins: Any, drafter: str = "logits", budget: int = 8) -> DecodeStats:
    got, stats = decode(
        Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget, plugins=plugins, prefill_chunk=2)), PROMPTS, 20
    )
    assert got == PLAIN
    return stats


def test_opened_step_and_closed_tell_the_whole_story() -> None:
    diary = Diary()
    stats = decode_with(diary, drafter="none")
    assert [list(request.prompt) for request in diary.opened] == PROMPTS
    assert [request for request, _ in diary.closed] == diary.opened
    assert all(given is stats for _, given in diary.closed)
    prompt_pieces = [step for step in diary.steps if step[3].nodes == 0]
    steps = [step for step in diary.steps if step[3].nodes]
    assert len(steps) == stats.steps == 19
    seen: list[list[int]] = [[], []]
    for _, tree, verdict, _ in prompt_pieces:
        for row in range(2):
            seen[row] += tree.tokens[row, : int(tree.count[row])].tolist()
            assert int(verdict.length[row]) == int(tree.count[row])
    assert seen == PROMPTS, "the pieces of prompt, without padding"
    for row in range(2):
        follow = [int(verdict.next_token[row]) for _, _, verdict, _ in prompt_pieces]
        assert follow[-1] == PLAIN[row][0]
    for view, _, verdict, bill in steps:
        assert bill.new_tokens == (1, 1)
        assert set(bill.milliseconds) >= {"draft", "forward", "verify", "commit"}
        assert verdict.host is not None
        assert verdict.host.top_ids.shape == (2, 1, 2)
        assert verdict.host.top_ids[:, 0, 0].tolist() == verdict.next_token.tolist(), "greedy picks the best"
        probs = verdict.host.top_probs
        assert probs is not None
        assert ((probs > 0) & (probs < 1)).all()
        assert (probs[:, :, 0] >= probs[:, :, 1]).all()
        assert view.root.tolist() == [
            request.tokens[int(at)] for request, at in zip(view.requests, view.position, strict=True)
        ]


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=40), min_size=1, max_size=3),
    shown=st.integers(0, 100),
    chunk=st.integers(1, 30),
)
def test_as_much_of_the_prompt_is_shown_as_somebody_needs(prompts: list[list[int]], shown: int, chunk: int) -> None:
    def pieces(needs: Needs, chunk: int) -> list[tuple[int, int, list[int]]]:
        """Row, token and best next tokens of every position that was shown."""
        diary = Diary()
        diary.needs = needs
        decode(Decoder(MODEL, DecodeConfig(drafter="none", plugins=(diary,), prefill_chunk=chunk)), prompts, 2)
        found = []
        for _, tree, verdict, bill in diary.steps:
            if not bill.nodes:
                assert tree.tokens.numel() <= max(chunk, len(prompts)), "what is held at once"
                for row in range(len(prompts)):
                    for column in range(int(tree.count[row])):
                        ids = verdict.host.top_ids[row, column].tolist()
                        found.append((row, int(tree.tokens[row, column]), ids))
        return found

    everything = pieces(Needs(top_k=3, prompt=Needs.ALL), 10**4)
    wanted = []
    for row, prompt in enumerate(prompts):
        held = [entry for entry in everything if entry[0] == row]
        assert [token for _, token, _ in held] == prompt
        wanted += held[max(len(held) - math.ceil(shown / len(prompts)), 0) :]
    assert sorted(pieces(Needs(top_k=3, prompt=shown), chunk), key=lambda entry: entry[0]) == wanted


@pytest.mark.parametrize("prompt", [True, 1.5, "all"])
def test_the_need_of_a_prompt_is_a_number_of_positions(prompt: Any) -> None:
    with pytest.raises(TypeError, match="whole number of positions"):
        Needs(prompt=prompt)


def test_budget_can_be_answered_by_a_plugin() -> None:
    class Three:
        @hookimpl
        def racer_budget(self, view: StepView) -> int:
            return 3 if view.step % 2 else 1

    stats = decode_with(Three())
    assert set(stats.nodes) == {1, 3}


def test_draft_can_be_wrapped_and_pruned() -> None:
    class Pruned:
        @hookimpl(wrapper=True)
        def racer_draft(self, view: StepView, budget: int) -> Any:
            tree = yield
            return tree and attrs.evolve(tree, score=torch.zeros(tree.tokens.shape)).prune(0.02)  # only roots stay

    assert set(decode_with(Pruned()).nodes) == {1}


def test_verify_can_be_wrapped() -> None:
    lengths: list[int] = []

    class Watches:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: torch.Tensor) -> Any:
            verdict = yield
            lengths.extend(verdict.length.tolist())
            return verdict

    stats = decode_with(Watches())
    assert len(lengths) == 2 * (stats.steps + 1)  # the first tokens are chosen by it too


def test_register_is_called_once_for_each_plugin() -> None:
    from racer.discovery import Plugins

    calls = []

    class Plugin:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            calls.append(registry)

    found = Plugins(list)
    found.register(Plugin(), "test")
    found.load_all()
    assert calls == [found.registry]
