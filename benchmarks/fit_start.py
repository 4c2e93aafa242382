"""Fits where the counting of ``racer`` starts, on the package's own questions and the embedded model.

    python benchmarks/fit_start.py                       # about 20 minutes on 2 cores; writes the package's start
    python benchmarks/fit_start.py --passes 1 --limit 4 --output /tmp/start.npz

Each pass decodes all questions twice with the same odds: with state kept, and with fresh tables for every question, so
that the odds know both situations.
"""

from __future__ import annotations

from pathlib import Path

import click

import racer
from racer import models
from racer.bench.questions import load_questions
from racer.strategies.context.drafter import Racer
from racer.strategies.context.odds import Odds
from racer.strategies.context.start import FITTED, keep_as_start, plain_odds


def answer(loaded: object, questions: list[object], odds: Odds, fresh: bool, tokens: int) -> float:
    """Decode all questions while ``odds`` learn; the mean accepted tokens."""
    lengths: list[int] = []
    drafter = Racer(odds=odds)
    for question in questions:
        drafter = Racer(odds=odds) if fresh else drafter
        decoder = racer.Decoder(loaded.model, racer.DecodeConfig(drafter=drafter, budget=64))
        inputs = loaded.encode([{"role": "user", "content": question.turns[0]}])
        output = decoder.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=loaded.pad_token_id,
            return_dict_in_generate=True,
        )
        lengths += output.racer_stats.accept_lengths[0]
    return sum(lengths) / len(lengths)


@click.command(help=__doc__)
@click.option("--passes", default=3, show_default=True)
@click.option("--limit", default=None, type=int, help="Questions a pass.  [default: all]")
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--output", default=FITTED, type=click.Path(path_type=Path), show_default="the package's own file")
def main(passes: int, limit: int | None, max_new_tokens: int, output: Path) -> None:
    loaded, odds = models.load(None), plain_odds()
    questions = list(load_questions(["builtin"]))[:limit]
    for number in range(passes):
        for fresh in (True, False):
            accepted = answer(loaded, questions, odds, fresh, max_new_tokens)
            print(f"pass {number + 1}, {'cold' if fresh else 'warm'}: {accepted:.3f} mean accepted tokens", flush=True)
    keep_as_start(odds, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
