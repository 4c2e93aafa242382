"""A run over a few questions, for tests of the runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racer.bench.methods import parse_methods
from racer.bench.questions import Question
from racer.bench.run.journal import Journal
from racer.bench.run.runner import Bench
from racer.bench.settings import Settings
from racer.loading.loaded_model import LoadedModel
from support.tiny_folder import SENTENCES

NAMES = ("hf-prompt-lookup", "racer-paper@16", "racer")
QUESTIONS = [
    Question(1, "a", "a", (SENTENCES[0], SENTENCES[1]), source="s"),
    Question(2, "b", "b", (SENTENCES[3],), source="s"),
    Question(3, "a", "a", (SENTENCES[1],), source="s"),
    Question(4, "b", "b", (SENTENCES[2],), source="s"),
]


def bench(loaded: LoadedModel, path: Path, *names: str, questions: list[Question] = QUESTIONS, **given: Any) -> Bench:
    settings = Settings(**{"max_new_tokens": 10, **given})
    methods = parse_methods(names or NAMES, budget="auto", sample=settings.sample, batch_size=settings.batch_size)
    return Bench(loaded, methods, questions, settings, Journal.open(path / "trials.jsonl"))


def names(run: Bench) -> list[str]:
    return [method.name for method in run.methods]
