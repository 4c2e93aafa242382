"""What is measured of a call, whoever decodes."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from racer.bench.adapters.transformers_generate import Probe
from racer.bench.meters import PeakMemory
from racer.bench.questions import Question
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from support.runner_example import QUESTIONS, bench
from support.versions import recent


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


@recent("its prompt lookup fails without a stop token")
def test_the_first_token_comes_after_the_prefill(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = type(loaded.model).forward

    @functools.wraps(forward)
    def slow(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 4:  # the prompt, at once or in pieces
            time.sleep(0.2)
        return forward(*args, **kwargs)

    run = bench(loaded, tmp_path, "racer@2", "hf-prompt-lookup", questions=QUESTIONS[1:2])
    monkeypatch.setattr(type(loaded.model), "forward", slow)  # a hook would have it decoded plainly
    run.run()
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


def test_memory_that_a_call_takes_is_seen() -> None:
    with PeakMemory(torch.device("cpu")) as none:
        pass
    with PeakMemory(torch.device("cpu")) as some:
        torch.ones(64 * 2**18)  # 64 MiB
    if some.bytes is None:
        pytest.skip("the system does not tell how much memory a process has")
    assert none.bytes is not None
    assert some.bytes - none.bytes > 48 * 2**20
