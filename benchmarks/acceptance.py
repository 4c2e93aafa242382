"""Mean accepted tokens of drafters on question files in Spec-Bench's format.

    python benchmarks/acceptance.py FOLDER --drafter racer-paper --drafter logits --budget 64

FOLDER holds ``*/question.jsonl``. The eight MT-Bench categories of Spec-Bench form one group. The first turn of each
question is asked through the chat template; drafters keep what they learn from question to question.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path

import click

import racer
from racer.models import load

MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def questions(folder: Path, per_group: int, seed: int) -> list[tuple[str, str]]:
    """``(group, prompt)`` pairs, ``per_group`` of each group, drawn by ``seed``."""
    groups = defaultdict(list)
    for path in sorted(folder.glob("*/question.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            in_spec_bench = path.parent.name == "spec_bench"
            group = (
                ("mt_bench" if item["category"] in MT_BENCH else item["category"])
                if in_spec_bench
                else path.parent.name
            )
            groups[group].append(item["turns"][0])
    draw = random.Random(seed)
    return [(group, prompt) for group in sorted(groups) for prompt in draw.sample(groups[group], per_group)]


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--drafter", "drafters", multiple=True, default=("racer-paper",), show_default=True)
@click.option("--budget", default="64", show_default=True)
@click.option("--per-group", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--dtype", default="bf16", show_default=True)
@click.option("--model", default=None)
def main(
    folder: Path,
    drafters: tuple[str, ...],
    budget: str,
    per_group: int,
    seed: int,
    max_new_tokens: int,
    dtype: str,
    model: str | None,
) -> None:
    loaded = load(model, dtype=dtype)
    asked = questions(folder, per_group, seed)
    for drafter in drafters:
        config = racer.DecodeConfig(drafter=drafter, budget=int(budget) if budget.isdigit() else budget)
        decoder = racer.Decoder(loaded.model, config)
        lengths, total, spent = defaultdict(list), defaultdict(float), 0.0
        tokens = 0
        for group, prompt in asked:
            inputs = loaded.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            out = decoder.generate(
                **inputs, do_sample=False, max_new_tokens=max_new_tokens, return_dict_in_generate=True
            )
            stats = out.racer_stats
            lengths[group] += stats.accept_lengths[0]
            tokens, spent = tokens + stats.new_tokens, spent + stats.seconds
            for phase, milliseconds in stats.milliseconds.items():
                total[phase] += milliseconds
        every = [length for group in lengths.values() for length in group]
        print(
            f"{drafter} budget {budget}: MAT {sum(every) / len(every):.3f}, "
            f"{tokens / spent:.1f} tokens/s, {len(every)} steps"
        )
        print("   " + ", ".join(f"{group} {sum(row) / len(row):.2f}" for group, row in lengths.items()))
        print("   ms/step: " + ", ".join(f"{phase} {value / len(every):.2f}" for phase, value in total.items()))


if __name__ == "__main__":
    main()
