"""The run itself, on a tiny real model: what is asked, in which order, and what is kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from racer.bench.divergence import choice_scores
from racer.bench.meters import PeakMemory
from racer.bench.methods import parse_methods
from racer.bench.peers import Probe, Transformers
from racer.bench.questions import Question
from racer.bench.runner import Bench
from racer.bench.settings import Settings
from racer.bench.summary import summarise
from racer.bench.trials import Journal, Trial
from racer.guard import PluginWarning
from racer.loading import models
from racer.loading.loaded import LoadedModel
from racer.strategies import PromptLookup
from support.tiny_folder import SENTENCES

NAMES = ("hf-prompt-lookup", "racer-paper@16", "racer")
QUESTIONS = [
    Question(1, "a", "a", (SENTENCES[0], SENTENCES[1]), source="s"),
    Question(2, "b", "b", (SENTENCES[3],), source="s"),
    Question(3, "a", "a", (SENTENCES[1],), source="s"),
    Question(4, "b", "b", (SENTENCES[2],), source="s"),
]


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return models.load(str(folder), dtype="fp32", device="cpu")


def bench(loaded: LoadedModel, path: Path, *names: str, questions: list[Question] = QUESTIONS, **given: Any) -> Bench:
    settings = Settings(**{"max_new_tokens": 10, **given})
    methods = parse_methods(names or NAMES, budget="auto", sample=settings.sample, batch_size=settings.batch_size)
    return Bench(loaded, methods, questions, settings, Journal.open(path / "trials.jsonl"))


def names(run: Bench) -> list[str]:
    return [method.name for method in run.methods]


def test_the_way_to_the_device_is_everybodys(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path, "racer@8", "hf", compile="static", pack=True, questions=QUESTIONS[:1])
    run.run()
    configs = {name: who._decoder.config for name, who in run._answering.items() if hasattr(who, "_decoder")}
    assert set(configs) == {"none", "racer@8"}
    assert {(config.compile, config.pack) for config in configs.values()} == {("static", True)}
    results = summarise(run.journal, QUESTIONS[:1], names(run), sample=False)
    assert all(part["overall"]["identical_rate"] == 1 for part in results["methods"].values())


def test_everybody_answers_everything_and_exact_methods_agree(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path)
    told: list[Trial] = []
    run.told = told.append
    run.run()
    assert len(told) == run.total() == 5 * 5
    assert [trial.error for trial in told] == [None] * 25
    results = summarise(run.journal, QUESTIONS, names(run), sample=False)
    for part in results["methods"].values():
        assert part["overall"]["identical_rate"] == 1
        assert part["overall"]["new_tokens"] == 50
    for trial in told:
        assert trial.measured is not None
        call = trial.measured
        assert call.kept <= call.drafted == sum(nodes - 1 for nodes in call.nodes)
        assert 0 < call.first_token_seconds < call.seconds  # type: ignore[operator]
        assert sum(call.accept_lengths[0]) <= 9
        assert len(call.nodes) == len(call.accept_lengths[0]) == len(call.step_milliseconds)
        if trial.method != "hf-prompt-lookup":  # its first forward pass may give more than one token
            assert sum(call.accept_lengths[0]) == 9


def test_the_order_rotates_so_that_nobody_is_always_first(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path, "racer")
    told: list[Trial] = []
    run.told = told.append
    run.run()
    turns = [[trial.method for trial in told[i : i + 3]] for i in range(0, len(told), 3)]
    assert {tuple(sorted(turn)) for turn in turns} == {("hf", "none", "racer")}
    assert {turn[0] for turn in turns} == {"none", "hf", "racer"}
    follows = {(turn[0], turn[1]) for turn in (list(map(str, run._order(n))) for n in range(6))}
    assert len(follows) == 6  # nobody always follows the same one


def test_a_later_turn_goes_on_from_the_plain_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path, "racer")
    run.run()
    plain = run.journal.trials[0, 0, "none"].texts[0]
    talk = [
        {"role": "user", "content": SENTENCES[0]},
        {"role": "assistant", "content": plain},
        {"role": "user", "content": SENTENCES[1]},
    ]
    expected = loaded.encode(talk)["input_ids"].shape[1]
    for method in names(run):
        assert run.journal.trials[0, 1, method].prompt_tokens == [expected]


def test_batches_are_padded_and_their_rows_answer_as_alone(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = bench(loaded, tmp_path / "one", "racer-paper@16")
    batched = bench(loaded, tmp_path / "two", "racer-paper@16", batch_size=2)
    alone.run()
    batched.run()
    assert batched.batches == [[0, 2], [1, 3]]
    first = batched.journal.trials[0, 0, "racer-paper@16"]
    assert first.rows == [0, 2]
    assert batched.journal.trials[0, 1, "none"].rows == [0]  # the other conversation is over

    def answers(run: Bench) -> dict[tuple[int, int, str], list[int]]:
        return {
            (row, trial.turn, trial.method): tokens
            for trial in run.journal.trials.values()
            for row, tokens in zip(trial.rows, trial.measured.tokens, strict=True)  # type: ignore[union-attr]
        }

    assert answers(batched) == answers(alone)


def test_an_interrupted_run_goes_on_where_it_was(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path)
    told: list[Trial] = []

    def interrupt(trial: Trial) -> None:
        told.append(trial)
        if len(told) == 7:
            raise KeyboardInterrupt

    run.told = interrupt
    with pytest.raises(KeyboardInterrupt):
        run.run()
    again = bench(loaded, tmp_path)
    assert list(again.journal.trials.values()) == told
    more: list[Trial] = []
    again.told = more.append
    again.run()
    assert len(more) == again.total() - 7
    assert list(again.journal.trials.values()) == told + more
    whole = bench(loaded, tmp_path)
    whole.told = lambda trial: pytest.fail("nothing is left to measure")
    whole.run()


def test_one_failing_question_is_written_down_and_the_run_goes_on(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Question(5, "b", "b", ("much too long " * 60,), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[long, *QUESTIONS])
    answer, calls = Transformers.answer, []

    def fail_once(self: Transformers, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the first is the warm-up
            raise RuntimeError("out of luck\nand more")
        return answer(self, *arguments)

    monkeypatch.setattr(Transformers, "answer", fail_once)
    run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    failures = {(failure["question_id"], failure["method"]): failure["error"] for failure in results["failures"]}
    assert set(failures) == {(5, "none"), (5, "hf"), (5, "racer"), (1, "hf")}
    assert "the model's context is 128" in failures[5, "racer"]
    assert failures[1, "hf"] == "RuntimeError: out of luck"
    assert results["methods"]["racer"]["overall"]["questions"] == 4
    assert results["methods"]["hf"]["overall"]["questions"] == 3


def test_a_conversation_whose_plain_answer_failed_ends_there(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Question(1, "a", "a", ("much too long " * 60, "and?"), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[long])
    run.run()
    errors = [trial.error for trial in run.journal.trials.values()]
    assert len(errors) == 6
    assert all(errors)
    assert "plain answer to the turn before is missing" in (run.journal.trials[0, 1, "racer"].error or "")


def test_state_is_kept_warm_and_dropped_cold(loaded: LoadedModel, tmp_path: Path) -> None:
    twice = [Question(n, "a", "a", (SENTENCES[0],), source="s") for n in range(2)]
    steps = {}
    for cold in (False, True):
        (tmp_path / str(cold)).mkdir()
        run = bench(loaded, tmp_path / str(cold), "racer-paper@16", questions=twice, cold=cold, max_new_tokens=24)
        run.run()
        calls = [run.journal.trials[n, 0, "racer-paper@16"].measured for n in range(2)]
        steps[cold] = [len(call.nodes) for call in calls if call]
    assert steps[True][1] == steps[True][0]
    assert steps[False][1] < steps[False][0]


def test_where_an_answer_parts_the_plain_models_gap_is_noted(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path, "racer", questions=QUESTIONS[1:2])
    run.run()
    key = (0, 0, "racer")
    assert key not in run.journal.gaps
    trial = run.journal.trials[key]
    assert trial.measured is not None
    trial.measured.tokens[0][3] += 1  # as if rounding had tipped it
    again = Bench(loaded, run.methods, run.questions, run.settings, run.journal)
    again._converse(0, [0])  # everything is there, so it only looks closer
    ids = loaded.encode([{"role": "user", "content": SENTENCES[3]}])["input_ids"]
    common = torch.tensor([run.journal.trials[0, 0, "none"].measured.tokens[0][:3]])  # type: ignore[union-attr]
    with torch.no_grad():
        best = loaded.model(torch.cat([ids, common], dim=1)).logits[0, -1].topk(2).values
    assert run.journal.gaps[key] == [pytest.approx(float(best[0] - best[1]), abs=1e-5)]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_p": 0.9}])
def test_the_gap_is_taken_of_what_the_choice_was_made_by(
    loaded: LoadedModel, tmp_path: Path, sampling: dict[str, float]
) -> None:
    run = bench(loaded, tmp_path, "racer", questions=QUESTIONS[1:2], **sampling)
    run.run()
    plain = run.journal.trials[0, 0, "none"].measured
    assert plain is not None
    assert plain.seeds is not None
    talk = [{"role": "user", "content": SENTENCES[3]}]
    for i, token in enumerate(plain.tokens[0]):
        scores = choice_scores(loaded, run.settings, talk, plain.tokens[0][:i], plain.seeds[0])
        assert int(scores.argmax()) == token


def test_sampled_answers_are_the_same_with_any_drafter_and_change_with_the_question(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    twice = [Question(n, "a", "a", (SENTENCES[0],), source="s") for n in range(2)]
    run = bench(loaded, tmp_path, "racer-paper@16", questions=twice, temperature=1.0)
    run.run()
    tokens = {key: trial.measured.tokens for key, trial in run.journal.trials.items() if trial.measured}
    assert tokens[0, 0, "none"] == tokens[0, 0, "racer-paper@16"]
    assert tokens[0, 0, "none"] != tokens[1, 0, "none"]


def parted(loaded: LoadedModel, path: Path) -> Bench:
    """A finished run in which one answer parts from the plain one, as if rounding had tipped it."""
    run = bench(loaded, path, "racer", questions=QUESTIONS[1:2])
    run.run()
    trial = run.journal.trials[0, 0, "racer"]
    assert trial.measured is not None
    trial.measured.tokens[0][3] += 1
    return run


def test_an_interrupt_between_an_answer_and_its_gap_loses_nothing(loaded: LoadedModel, tmp_path: Path) -> None:
    run = parted(loaded, tmp_path)
    again = Bench(loaded, run.methods, run.questions, run.settings, run.journal)
    again.run()
    assert len(run.journal.gaps[0, 0, "racer"]) == 1


def test_a_gap_that_cannot_be_found_out_does_not_end_the_run(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parted(loaded, tmp_path)

    def no_memory(self: LoadedModel, ids: list[int]) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(LoadedModel, "next_logits", no_memory)
    run.run()
    assert run.journal.gaps[0, 0, "racer"] == [None]


def test_answers_end_with_their_end_token_whoever_gives_them(folder: Path, tmp_path: Path) -> None:
    loaded = models.load(str(folder), dtype="fp32", device="cpu")
    plain = bench(loaded, tmp_path, "racer", questions=QUESTIONS[2:])
    plain.run()
    free = [plain.journal.trials[n, 0, "none"].measured for n in range(2)]
    assert all(free)
    end = free[0].tokens[0][4]  # type: ignore[union-attr]
    loaded.model.generation_config.eos_token_id = end
    expected = {}
    for row, call in enumerate(free):
        tokens = call.tokens[0]  # type: ignore[union-attr]
        expected[row] = tokens[: tokens.index(end) + 1] if end in tokens else tokens
    assert len(expected[0]) <= 5
    both = [Question(n, "a", "a", QUESTIONS[2 + n].turns, source="s") for n in range(2)]
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        some = ("racer-paper@16", *(["hf-prompt-lookup"] if size == 1 else []))
        run = bench(loaded, tmp_path / str(size), *some, questions=both, batch_size=size)
        run.run()
        for trial in run.journal.trials.values():
            assert trial.measured is not None
            assert dict(zip(trial.rows, trial.measured.tokens, strict=True)) == {r: expected[r] for r in trial.rows}
            for tokens, lengths in zip(trial.measured.tokens, trial.measured.accept_lengths, strict=True):
                assert all(length > 0 for length in lengths)
                assert sum(lengths) <= len(tokens) - 1
                if trial.method != "hf-prompt-lookup":
                    assert sum(lengths) == len(tokens) - 1


def test_the_first_token_comes_after_the_prefill(loaded: LoadedModel, tmp_path: Path) -> None:
    def slow(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 4:  # the prompt, at once or in pieces
            time.sleep(0.2)

    run = bench(loaded, tmp_path, "racer@2", "hf-prompt-lookup", questions=QUESTIONS[1:2])
    hook = loaded.model.register_forward_pre_hook(slow, with_kwargs=True)
    try:
        run.run()
    finally:
        hook.remove()
    for trial in run.journal.trials.values():
        assert trial.measured is not None
        assert 0.2 <= trial.measured.first_token_seconds <= trial.measured.seconds  # type: ignore[operator]


def test_the_probe_counts_forward_passes_not_questions() -> None:
    """Older versions of transformers ask the criteria about drafts too, before these are scored."""
    probe = Probe()
    for width, draft, length in ((5, 9, 7), (3, 10, 8)):
        probe(torch.zeros(1, draft), None)
        probe.before_forward(None, (), {"input_ids": torch.zeros(1, width)})
        probe(torch.zeros(1, length), None)
    assert probe.lengths == [7, 8]
    assert probe.widths == [5, 3]
    assert len(probe.times) == 2


def test_a_drafter_that_fails_at_work_is_told_of(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the drafter")

    monkeypatch.setattr(PromptLookup, "grow", broken)
    run = bench(loaded, tmp_path, "prompt-lookup@8", questions=QUESTIONS[1:2])
    with pytest.warns(PluginWarning):
        run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    assert results["methods"]["prompt-lookup@8"]["overall"]["identical_rate"] == 1
    assert [failure["method"] for failure in results["failures"]] == ["prompt-lookup@8"]
    assert "in the drafter" in results["failures"][0]["error"]


def test_a_prompt_that_is_too_long_fails_alone(loaded: LoadedModel, tmp_path: Path) -> None:
    long = Question(5, "b", "b", ("much too long " * 60,), source="s")
    run = bench(loaded, tmp_path, "racer", questions=[QUESTIONS[1], long, QUESTIONS[3]], batch_size=2)
    assert run.batches == [[0, 2], [1]]
    run.run()
    results = summarise(run.journal, run.questions, names(run), sample=False)
    assert {failure["question_id"] for failure in results["failures"]} == {5}
    assert results["methods"]["hf"]["overall"]["questions"] == 2


def test_memory_that_a_call_takes_is_seen() -> None:
    with PeakMemory(torch.device("cpu")) as none:
        pass
    with PeakMemory(torch.device("cpu")) as some:
        torch.ones(64 * 2**18)  # 64 MiB
    if some.bytes is None:
        pytest.skip("the system does not tell how much memory a process has")
    assert none.bytes is not None
    assert some.bytes - none.bytes > 48 * 2**20
