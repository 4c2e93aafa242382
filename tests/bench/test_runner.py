"""The run itself, on a tiny real model: what is asked, in which order, and what is kept."""

from __future__ import annotations

from pathlib import Path

from racer.bench.questions import Question
from racer.bench.run.runner import Bench
from racer.bench.summary import summarise
from racer.bench.trials import Trial
from racer.loading.loaded_model import LoadedModel
from support.runner_example import QUESTIONS, bench, names
from support.tiny_folder import SENTENCES
from support.versions import recent


def test_the_way_to_the_device_is_everybodys(loaded: LoadedModel, tmp_path: Path) -> None:
    run = bench(loaded, tmp_path, "racer@8", "hf", compile="static", pack=True, questions=QUESTIONS[:1])
    run.run()
    configs = {name: who._decoder.config for name, who in run._adapters.items() if hasattr(who, "_decoder")}
    assert set(configs) == {"none", "racer@8"}
    assert {(config.compile, config.pack) for config in configs.values()} == {("static", True)}
    results = summarise(run.journal, QUESTIONS[:1], names(run), sample=False)
    assert all(part["overall"]["identical_rate"] == 1 for part in results["methods"].values())


def test_predictions_are_judged_by_their_own_steps_in_static_shapes(loaded: LoadedModel, tmp_path: Path) -> None:
    """A step's scores lie where the next one's do."""
    found = []
    for mode in ("off", "static"):
        (tmp_path / mode).mkdir()
        run = bench(loaded, tmp_path / mode, "racer@8", compile=mode, questions=QUESTIONS[:2])
        run.run()
        results = summarise(run.journal, QUESTIONS[:2], names(run), sample=False)
        found.append(results["methods"]["racer@8"]["reliability"])
    assert found[0] == found[1]
    assert found[0]


@recent("its prompt lookup fails without a stop token")
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


def test_sampled_answers_are_the_same_with_any_drafter_and_change_with_the_question(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    twice = [Question(n, "a", "a", (SENTENCES[0],), source="s") for n in range(2)]
    run = bench(loaded, tmp_path, "racer-paper@16", questions=twice, temperature=1.0)
    run.run()
    tokens = {key: trial.measured.tokens for key, trial in run.journal.trials.items() if trial.measured}
    assert tokens[0, 0, "none"] == tokens[0, 0, "racer-paper@16"]
    assert tokens[0, 0, "none"] != tokens[1, 0, "none"]
