"""The report: every figure is in it, no name breaks it, and it is one page that needs nothing else."""

from __future__ import annotations

import copy
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from racer.bench import plots
from racer.bench.markup import (
    DASH,
    block,
    code,
    count,
    duration,
    escape,
    number,
    percent,
    plain,
    ratio,
    table,
    with_interval,
)
from racer.bench.reading import Run
from racer.bench.report import markdown, write_report
from racer.bench.verdict import verdict

METHODS = ("none", "hf", "hf-prompt-lookup", "racer", "racer-paper@64", "logits", "suffix", "racer/typical")
GROUPS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag", "human_eval", "mgsm")
GAINS = {"none": 1.0, "hf": 0.97, "hf-prompt-lookup": 1.18, "logits": 1.31, "suffix": 1.22, "racer/typical": 1.71}
HOSTILE = "<script>alert(`1`)</script> | **x** [a](http://b) \\| $e$ _u_"
SECTIONS = (
    "Overall", "Speed by group", "Mean accepted tokens by group", "Acceptance by depth", "Where the time goes",
    "Drafted and wasted nodes", "Cost of a step", "Reliability of scores", "Identity with plain decoding",
    "Task quality", "Failures", "Setup", "How the figures are computed",
)  # fmt: skip
VOID = {"meta", "br", "hr", "img"}


def figures(method: str, draw: random.Random, asked: int) -> dict[str, Any]:
    """What a method might have measured."""
    ours = not method.startswith("hf")
    gain = GAINS.get(method, 1.55) * (1 if method == "none" else draw.uniform(0.74, 1.3))
    mat = 1.0 if method in ("none", "hf") else 1 + 1.9 * (gain - 0.6)
    shares = [] if mat == 1 else [min(0.9, 0.3 * mat) * 0.7**depth for depth in range(draw.randint(6, 12))]
    drafted = 0 if mat == 1 else asked * 9000
    exact = method != "racer/typical"
    return {
        "questions": asked, "failures": 0, "new_tokens": asked * 241, "steps": int(asked * 241 / mat),
        "mean_accepted_tokens": mat, "mean_accepted_tokens_ci": [mat - 0.11, mat + 0.12] if mat > 1 else [1.0, 1.0],
        "tokens_per_second": 26.4 * gain, "tokens_per_second_median": 25.9 * gain,
        "tokens_per_second_ci": [26.4 * gain - 1.3, 26.4 * gain + 1.4],
        "speedup_vs_none": gain, "speedup_vs_none_ci": [gain - 0.06, gain + 0.07],
        "speedup_vs_none_median": gain - 0.02, "speedup_vs_hf": gain / 0.97,
        "speedup_vs_hf_ci": [gain - 0.03, gain + 0.1], "speedup_vs_hf_median": gain + 0.01,
        "identical_rate": 1.0 if method == "none" else 0.975 if exact else 0.4375,
        "divergences": 0 if method == "none" else 1 if exact else 18,
        "divergence_gap_median": None if method == "none" else 0.0312,
        "divergence_gap_max": None if method == "none" else 0.125,
        "nodes_per_step": 1.0 if mat == 1 else 23.7, "drafted_nodes": drafted, "wasted_nodes": int(drafted * 0.94),
        "first_token_seconds": 0.1824, "peak_memory_mib": 143.7 if ours else None,
        "milliseconds": {
            "prefill": 171.3, "draft": 0.02 if mat == 1 else 1.53, "forward": 36.2 + 9 * mat, "verify": 2.65,
            "commit": 0.11, "observe": 0.35, "host": 0.42,
        } if ours else None,
        "acceptance_by_depth": shares,
        "score": {"right": asked // 2, "asked": asked} if asked else None,
    }  # fmt: skip


def reliability(draw: random.Random) -> dict[str, Any]:
    rises = [
        {"low": n / 10, "high": (n + 1) / 10, "count": int(9000 * 0.6**n) + 3, "predicted": n / 10 + 0.05,
         "accepted": min(1.0, max(0.0, n / 10 + draw.uniform(-0.08, 0.1)))}
        for n in range(10)
    ]  # fmt: skip
    return {"bins": rises, "count": sum(held["count"] for held in rises), "ece": draw.uniform(0.01, 0.08)}


def example(methods: tuple[str, ...] = METHODS, groups: tuple[str, ...] = GROUPS, seed: int = 3) -> dict[str, Any]:
    """The results of a run as they might be."""
    draw = random.Random(seed)
    entries: dict[str, Any] = {}
    for method in methods:
        sizes = [1] if method in ("none", "hf") else [1, 2, 4, 8, 16, 24, 32, 48, 64]
        slope = draw.uniform(0.5, 0.8)
        curve = [{"nodes": n, "milliseconds": 38.0 + slope * n, "steps": 4000 // n} for n in sizes]
        scored = method.startswith(("racer", "logits"))
        entries[method] = {
            "overall": figures(method, draw, 5 * len(groups)),
            "groups": {group: figures(method, draw, 5) for group in groups},
            "cost_curve": [] if method.startswith("hf") else curve,
            "reliability": {"path": reliability(draw), "child": reliability(draw)} if scored else None,
        }
    setup = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct", "dtype": "bfloat16", "device": "cpu",
        "device_name": "AMD EPYC 9R14 96-Core Processor", "machine": "AMD EPYC 9R14 96-Core Processor", "cores": 2,
        "threads": 2, "platform": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.7", "torch": "2.13.0+cpu",
        "transformers": "5.23.0", "racer": "0.1.0", "commit": "b4d8bd7+", "date": "2026-11-30T14:02:11+00:00",
        "command": "racer bench --methods racer,racer-paper@64,logits,suffix,racer/typical --limit 5 --output runs/a",
        "questions": [{"source": "spec-bench", "count": 30}, {"source": "mgsm-zh", "count": 10}],
        "digest": "5e0f6d0c2b7a4a11", "groups": dict.fromkeys(groups, 5), "methods": list(methods),
        "max_new_tokens": 256, "limit": 5, "budget": "auto", "seed": 0, "temperature": 0.0, "top_p": 1.0,
        "batch_size": 1, "cold": False, "score": True, "resumed": 1, "complete": True,
        "trials_done": 320, "trials_total": 320,
    }  # fmt: skip
    failures = [
        {"method": methods[-1], "group": groups[0], "question_id": 81 + n, "turn": 1, "error": "ConfigError: too long"}
        for n in range(23)
    ]
    return {"setup": setup, "methods": entries, "failures": failures}


def holed(data: Any, holes: float, draw: random.Random) -> Any:
    """The same with figures not measured."""
    if isinstance(data, dict):
        return {name: holed(value, holes, draw) for name, value in data.items()}
    if isinstance(data, list) and not any(isinstance(value, str) for value in data):
        return [holed(value, holes, draw) for value in data] if draw.random() >= holes else None
    return None if draw.random() < holes and not isinstance(data, str) else data


class Page(HTMLParser):
    """Reads a page, and fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]
        assert not any(name.startswith("on") for name in found)


def written(results: dict[str, Any], folder: Path) -> Page:
    """Write the report and check what must hold of every one."""
    write_report(results, folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text == markdown(results)
    assert len(text.split("\n|")) > 1
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    images = re.findall(r"^!\[[^]]*\]\((.*)\)$", text, flags=re.M)
    for image in images:
        ET.parse(folder / image)
    assert page.tags.count("svg") == len(images) == len(plots.available(Run(results)))
    return page


def row(text: str, section: str, method: str) -> list[str]:
    """A method's cells in the first table of a section."""
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    line = next(line for line in body.splitlines() if line.startswith(f"| `{method}` |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_section_is_there_in_order(tmp_path: Path) -> None:
    text = markdown(example())
    assert tuple(re.findall("^## (.*)$", text, flags=re.M)) == SECTIONS
    assert text.startswith("# RACER benchmark: HuggingFaceTB/SmolLM2-135M-Instruct\n\nbfloat16 · ")
    page = written(example(), tmp_path)
    assert page.tags.count("h2") == len(SECTIONS)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(f"{n}.svg" for n in plots.PLOTS)


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


def test_verdict_says_how_fast_where_and_whether_the_same() -> None:
    results = example(("none", "hf", "racer", "logits"), ("qa", "rag"))
    racer = results["methods"]["racer"]
    racer["overall"] |= {"speedup_vs_none": 1.43, "speedup_vs_none_ci": [1.38, 1.49], "identical_rate": 1.0}
    racer["overall"] |= {"speedup_vs_hf": 1.5, "speedup_vs_hf_ci": [1.4, 1.6]}
    results["methods"]["logits"]["overall"]["speedup_vs_none"] = 1.1
    for group, gain in (("qa", 0.95), ("rag", 1.9)):
        racer["groups"][group] |= {"speedup_vs_none": gain, "speedup_vs_none_ci": [gain - 0.06, gain + 0.06]}
    words = "\n".join(verdict(Run(results)))
    assert "`racer` decodes at **1.43x** (1.38-1.49) the speed of plain decoding and **1.50x** (1.40-1.60)" in words
    assert "the fastest of RACER's 2 methods" in words
    assert "It helps most in rag (1.90x) and least in qa (0.95x)." in words
    assert "All its answers are those of plain decoding, token for token." in words
    assert "- `racer` in qa 0.95x (0.89-1.01)" in words
    assert "Where an interval holds 1.00" in words


def test_verdict_does_not_boast() -> None:
    results = example(("none", "racer"), ("qa",))
    overall = results["methods"]["racer"]["overall"]
    overall |= {"speedup_vs_none": 0.9, "speedup_vs_none_ci": [0.8, 0.95], "identical_rate": None}
    words = " ".join(verdict(Run(results)))
    assert "No method of RACER is faster than plain decoding" in words
    assert "was not measured" in words
    overall["speedup_vs_none_ci"] = [0.8, 1.2]
    assert "leaves open whether plain decoding is slower or faster" in " ".join(verdict(Run(results)))
    del results["methods"]["racer"], results["setup"]["methods"][1]
    assert "No method of RACER was measured" in verdict(Run(results))[0]


def test_a_lossy_winner_is_not_the_only_one_named() -> None:
    results = example()
    results["methods"]["racer/typical"]["overall"]["speedup_vs_none"] = 3.0
    results["methods"]["racer"]["overall"]["identical_rate"] = 1.0
    words = " ".join(verdict(Run(results)))
    assert "`racer/typical` decodes at **3.00x**" in words
    assert "43.8 % of its answers are those of plain decoding" in words
    assert "whose answers are all the same is `racer`" in words


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


def test_what_was_not_measured_is_a_dash_or_a_line(tmp_path: Path) -> None:
    results = holed(example(("none", "racer"), ("qa",)), 1, random.Random(0))
    page = written(results, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert row(text, "Overall", "racer")[1:] == [DASH] * 8
    assert "No drafter of this run gives scores." in text
    assert "Task quality" not in text
    assert "svg" not in page.tags
    assert "None" not in "".join(page.cells)


@pytest.mark.parametrize("results", [{}, {"setup": {}, "methods": {}, "failures": []}, {"methods": {"racer": {}}}])
def test_hardly_any_results(results: dict[str, Any], tmp_path: Path) -> None:
    written(results, tmp_path)


def test_names_stay_names(tmp_path: Path) -> None:
    results = example(("none", "hf", HOSTILE), (HOSTILE + "group", "qa"))
    results["setup"] |= {"model": HOSTILE, "command": f"racer bench ```\n# {HOSTILE}\n```", "platform": HOSTILE}
    results["failures"][0] |= {"question_id": [HOSTILE, 3], "error": "Error: |\n<b>\x1b[31m`\ud800``"}
    page = written(results, tmp_path)
    assert page.cells.count(HOSTILE) >= 8  # methods and settings, each cell the name and nothing else
    assert f"{HOSTILE}, 3" in page.cells
    assert "Error: | <b> [31m` ``" in page.cells
    assert page.tags.count("h1") == 1
    assert "em" not in page.tags


@given(st.text(max_size=30))
def test_any_name_survives_a_table(name: str) -> None:
    text = table(["method", "x"], [[code(name), escape(name)], ["a", "b"]])
    page = Page(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
    assert page.cells == ["method", "x", plain(name) or DASH, plain(name) or DASH, "a", "b"]


@given(st.text(st.sampled_from("`~a \n"), max_size=30))
def test_any_command_stays_in_its_block(command: str) -> None:
    tokens = MarkdownIt().parse(block(command) + "\n\nafter")
    assert [token.type for token in tokens][:2] == ["fence", "paragraph_open"]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_report(copy.deepcopy(example()), tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_method_has_one_colour() -> None:
    look = plots.colours(Run(example()))
    assert len(set(look.values())) == len(METHODS)
    for name in ("speedup", "depth", "cost", "reliability"):
        assert look["racer"] in plots.draw(Run(example()), name)


def test_plots_know_dark_pages_and_keep_text() -> None:
    picture = plots.draw(Run(example(groups=("质量", "$a$"))), "speedup")
    assert "prefers-color-scheme: dark" in picture
    assert ">质量</text>" in picture
    assert ">$a$</text>" in picture


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


names = st.text(min_size=1, max_size=40)
runs = st.builds(
    lambda methods, groups, holes, seed: holed(
        example(tuple(methods), tuple(groups), seed), holes, random.Random(seed)
    ),
    st.lists(names | st.sampled_from(METHODS), min_size=1, max_size=10, unique=True),
    st.lists(names | st.sampled_from(GROUPS), min_size=1, max_size=10, unique=True),
    st.sampled_from([0, 0.05, 0.5, 0.95]),
    st.integers(0, 1000),
)


@given(runs)
def test_any_results_can_be_told(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert "None" not in text.replace("\nNone.\n", "")
    assert "nan" not in text.split("## Setup")[0]


@settings(max_examples=6, deadline=None)
@given(runs)
def test_any_results_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, results: dict[str, Any]) -> None:
    written(results, tmp_path_factory.mktemp("run"))
