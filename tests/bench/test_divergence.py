"""How close the plain model's call was where an answer parts from the plain one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from racer import DecodeConfig, Decoder
from racer.bench.run.divergence import choice_scores
from racer.bench.run.runner import Bench
from racer.loading.loaded_model import LoadedModel
from racer.step.request import row_seed
from support.runner_example import QUESTIONS, bench
from support.tiny_folder import SENTENCES


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


@pytest.mark.parametrize("seed", range(4))
def test_a_rows_seed_may_have_all_64_bits(loaded: LoadedModel, tmp_path: Path, seed: int) -> None:
    settings = bench(loaded, tmp_path, "racer", temperature=0.9, top_p=0.9).settings
    talk, common = [{"role": "user", "content": SENTENCES[3]}], [5, 6]
    scores = choice_scores(loaded, settings, talk, common, row_seed(seed, 0))
    ids = torch.tensor([loaded.encode(talk)["input_ids"][0].tolist() + common])
    decoder = Decoder(loaded.model, DecodeConfig(drafter="none", seed=seed))
    told = decoder.generate(ids, do_sample=True, temperature=0.9, top_p=0.9, top_k=0, max_new_tokens=1)
    assert int(scores.argmax()) == int(told[0, -1])


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
