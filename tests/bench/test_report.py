"""The report says what was measured: every section, every figure, and a verdict that does not boast."""

from __future__ import annotations

import random
import re
from typing import Any

from hypothesis import assume, given

from racer.bench.report import markdown
from racer.bench.report.findings import findings
from racer.bench.report.formats import DASH, count, duration, number, percent, ratio, with_interval
from racer.bench.report.reading import Run
from support.report_example import example, holed, runs

SECTIONS = (
    "Overall", "Speed by group", "Mean accepted tokens by group", "Acceptance by depth", "Where the time goes",
    "Drafted and wasted nodes", "Cost of a step", "Reliability of scores", "Identity with plain decoding",
    "Task quality", "Failures", "Setup", "How the figures are computed",
)  # fmt: skip


def row(text: str, section: str, method: str) -> list[str]:
    """A method's cells in the first table of a section."""
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    line = next(line for line in body.splitlines() if line.startswith(f"| `{method}` |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_section_is_there_in_order() -> None:
    text = markdown(example())
    assert tuple(re.findall("^## (.*)$", text, flags=re.M)) == SECTIONS
    assert text.startswith("# RACER benchmark: HuggingFaceTB/SmolLM2-135M-Instruct\n\nbfloat16 · ")


def test_every_figure_is_shown() -> None:
    results = example(("none", "hf", "racer"), ("qa", "rag"))
    results["methods"]["racer"]["overall"] |= {
        "questions": 1003, "failures": 2, "new_tokens": 12345, "steps": 6789, "mean_accepted_tokens": 2.984,
        "mean_accepted_tokens_ci": [2.8, 3.101], "tokens_per_second": 41.23, "tokens_per_second_median": 40.04,
        "tokens_per_second_ci": [39.87, 42.6], "speedup_vs_none": 1.4312, "speedup_vs_none_ci": [1.38, 1.494],
        "speedup_vs_none_median": 1.4, "speedup_vs_hf": 1.52, "speedup_vs_hf_ci": [1.5, 1.561],
        "speedup_vs_hf_median": 1.53, "identical_rate": 0.9996, "divergences": 7, "divergence_gap_median": 0.03125,
        "divergence_gap_max": 0.25, "nodes_per_step": 23.71, "drafted_nodes": 90000, "wasted_nodes": 81000,
        "first_token_seconds": 0.1824, "peak_memory_mib": 1433.6,
        "milliseconds": {"prefill": 171.3, "draft": 1.5, "forward": 36, "verify": 1.5, "commit": 0.1, "observe": 0.4,
                         "host": 0.5},
        "acceptance_by_depth": [0.75, 0.5, 0.123], "score": {"right": 3, "asked": 4},
    }  # fmt: skip
    text = markdown(results)
    assert row(text, "Overall", "racer") == [
        "`racer`", "41.2 (39.9-42.6)", "**1.43x** (1.38-1.49)", "1.52x (1.50-1.56)", "2.98 (2.80-3.10)", "> 99.9 %",
        "182 ms", "1,434", "2",
    ]  # fmt: skip
    assert "| `racer` | 40.0 | 1.40x | 1.53x | 1,003 | 12,345 | 6,789 |" in text
    assert row(text, "Acceptance by depth", "racer")[1:4] == ["75.0 %", "50.0 %", "12.3 %"]
    assert row(text, "Where the time goes", "racer")[1:] == [
        "1.50", "36.0", "1.50", "0.1", "0.4", "0.5", "40.0", "10.0 %", "171"
    ]  # fmt: skip
    assert row(text, "Drafted and wasted nodes", "racer")[1:] == ["23.7", "90,000", "81,000", "90.0 %"]
    assert row(text, "Identity with plain decoding", "racer")[1:] == ["> 99.9 %", "7", "0.0312", "0.25"]
    assert row(text, "Task quality", "racer")[1] == "3/4 (75.0 %)"
    assert len(row(text, "Speed by group", "racer")) == len(row(text, "Mean accepted tokens by group", "none")) == 4
    for name, value in results["setup"].items():
        if name not in ("complete", "trials_done", "trials_total", "command"):
            assert f"| {name.replace('_', ' ')} | " in text, value
    assert f"```\n{results['setup']['command']}\n```" in text


def test_a_lossy_method_wins_no_headline() -> None:
    results = example(("none", "hf", "racer", "racer/typical"), ("qa", "rag"))
    results["setup"]["lossy"] = ["racer/typical"]
    results["methods"]["racer/typical"]["overall"]["speedup_vs_none"] = 9.0
    words = findings(Run(results))
    assert words[0].startswith("`racer` decodes")
    assert any(line.startswith("`racer/typical` runs at 9.00x") and "lossy" in line for line in words)


def test_verdict_says_how_fast_where_and_whether_the_same() -> None:
    results = example(("none", "hf", "racer", "logits"), ("qa", "rag"))
    racer = results["methods"]["racer"]
    racer["overall"] |= {"speedup_vs_none": 1.43, "speedup_vs_none_ci": [1.38, 1.49], "identical_rate": 1.0}
    racer["overall"] |= {"speedup_vs_hf": 1.5, "speedup_vs_hf_ci": [1.4, 1.6]}
    results["methods"]["logits"]["overall"]["speedup_vs_none"] = 1.1
    for group, gain in (("qa", 0.95), ("rag", 1.9)):
        racer["groups"][group] |= {"speedup_vs_none": gain, "speedup_vs_none_ci": [gain - 0.06, gain + 0.06]}
    words = "\n".join(findings(Run(results)))
    assert "`racer` decodes at **1.43x** (1.38-1.49) the speed of plain decoding and **1.50x** (1.40-1.60)" in words
    assert "the fastest of RACER's 2 exact methods" in words
    assert "It helps most in rag (1.90x) and least in qa (0.95x)." in words
    assert "All its answers are those of plain decoding, token for token." in words
    assert "- `racer` in qa 0.95x (0.89-1.01)" in words
    assert "Where an interval holds 1.00" in words


def test_verdict_does_not_boast() -> None:
    results = example(("none", "racer"), ("qa",))
    overall = results["methods"]["racer"]["overall"]
    overall |= {"speedup_vs_none": 0.9, "speedup_vs_none_ci": [0.8, 0.95], "identical_rate": None}
    words = " ".join(findings(Run(results)))
    assert "No method of RACER is faster than plain decoding" in words
    assert "was not measured" in words
    overall["speedup_vs_none_ci"] = [0.8, 1.2]
    assert "leaves open whether plain decoding is slower or faster" in " ".join(findings(Run(results)))
    del results["methods"]["racer"], results["setup"]["methods"][1]
    assert "No method of RACER was measured" in findings(Run(results))[0]


def test_a_lossy_winner_is_not_the_only_one_named() -> None:
    results = example()
    results["methods"]["racer/typical"]["overall"]["speedup_vs_none"] = 3.0
    results["methods"]["racer"]["overall"]["identical_rate"] = 1.0
    words = " ".join(findings(Run(results)))
    assert "`racer/typical` decodes at **3.00x**" in words
    assert "43.8 % of its answers are those of plain decoding" in words
    assert "Of RACER's methods `racer` keeps most to plain decoding, in 100 % of its answers, at " in words


def test_what_was_not_measured_is_a_dash_or_a_line() -> None:
    text = markdown(holed(example(("none", "racer"), ("qa",)), 1, random.Random(0)))
    assert row(text, "Overall", "racer")[1:] == [DASH] * 8
    assert "No drafter of this run gives scores." in text
    assert "Task quality" not in text


def test_unfinished_runs_say_so_first() -> None:
    results = example()
    assert "Incomplete" not in markdown(results)
    results["setup"] |= {"complete": False, "trials_done": 80}
    assert markdown(results).split("\n\n")[2].startswith("> **Incomplete run.** 80 of 320 calls are done (25.0 %).")


def test_failures_beyond_twenty_are_counted() -> None:
    text = markdown(example())
    assert text.count("ConfigError: too long") == 20
    assert "\n\nAnd 3 more.\n" in text
    results = example() | {"failures": []}
    assert "## Failures\n\nNone.\n" in markdown(results)


def test_numbers() -> None:
    assert [number(x) for x in (None, float("nan"), True, 0, 0.01234, 9.876, 41.23, 171.3, 12345, 2e9)] == [
        DASH, DASH, DASH, "0", "0.0123", "9.88", "41.2", "171", "12,345", "2e+09",
    ]  # fmt: skip
    assert [percent(x) for x in (None, 0, 1, 0.5, 0.0004, 0.9997)] == [
        DASH, "0 %", "100 %", "50.0 %", "< 0.1 %", "> 99.9 %"
    ]  # fmt: skip
    assert [ratio(x) for x in (None, 1.428, 12.34)] == [DASH, "1.43x", "12.3x"]
    assert [duration(x) for x in (None, 0.1824, 2.5)] == [DASH, "182 ms", "2.50 s"]
    assert [count(x) for x in (None, 12345)] == [DASH, "12,345"]
    assert with_interval(1.43, (1.38, 1.49), ratio) == "1.43x (1.38-1.49)"
    assert with_interval(1.43, None, ratio) == "1.43x"
    assert with_interval(None, (1, 2), ratio) == DASH
    assert with_interval(1, (1, 1), ratio) == "1.00x"
    assert with_interval(1, (1, 1.5), ratio) == "1.00x (1.00-1.50)"


@given(runs)
def test_any_results_can_be_told(results: dict[str, Any]) -> None:
    names = " ".join([*results["methods"], *results["setup"]["groups"]])
    assume("None" not in names and "nan" not in names)
    text = markdown(results)
    assert "None" not in text.replace("\nNone.\n", "")
    assert "nan" not in text.split("## Setup")[0]
