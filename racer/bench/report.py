"""The report of a run: Markdown, the same as one HTML page, and the plots of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from racer.bench import plots, tables
from racer.bench.markup import DASH, block, count, escape, mean, percent, ratio, table
from racer.bench.page import page
from racer.bench.reading import PLAIN, Run, known
from racer.bench.verdict import SPEEDUP, subtitle, verdict

METHOD = """\
**Tokens/s** is what Spec-Bench computes: of each question the new tokens by the time of its calls, prefill \
included; then the mean over questions. A speed against a baseline is that mean by the baseline's, on the \
questions that both answered. Medians of it are over the questions' own ratios. The time to the first token is \
from the call to when every row has one.

**Intervals** are 95 % percentile bootstrap intervals over questions: they say what another draw of questions \
would change, not what another machine would. There are none for fewer than five questions.

**Interleaving**: every question is put to all methods, in an order that rotates, before the next one is asked, so \
that a machine that drifts slows down all of them. Plots and tables of one run compare; those of two runs need \
not.

**MAT**, mean accepted tokens, is new tokens per forward pass. It has the bonus token that the model itself adds \
to each accepted path, so that plain decoding has 1, and leaves out the prefill and the token that the prefill \
gives.

**Peak memory** is how far memory grew during the worst call, the model's weights not counted: the allocator's on \
a GPU, the process' on a CPU, where what earlier calls left behind is given back first, as far as that goes.

**Identical** answers have the token ids of plain decoding. In floating point a forward pass over many nodes \
rounds other than one over a single node, so exact methods too may part from it where two logits almost tie: the \
gap is how far apart the plain model's two best logits are at the first difference."""

SETUP = (
    "model", "dtype", "device", "device_name", "machine", "cores", "threads", "platform", "python", "torch",
    "transformers", "racer", "commit", "date", "questions", "digest", "groups", "methods", "max_new_tokens", "limit",
    "budget", "seed", "temperature", "top_p", "batch_size", "cold", "compile", "pack", "score", "resumed",
)  # fmt: skip


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.svg``.

    :param results: what ``results.json`` has.
    """
    run, text = Run(results), markdown(results)
    pictures = {name: plots.draw(run, name) for name in plots.available(run)}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    files = {f"plots/{name}.svg": picture for name, picture in pictures.items()}
    files |= {"report.md": text, "report.html": page(text, pictures)}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")


def markdown(results: dict[str, Any]) -> str:
    """The text of the report."""
    run = Run(results)
    parts = [f"# RACER benchmark: {escape(run.setup.get('model') or 'unnamed model', 100)}", subtitle(run)]
    parts += [*_unfinished(run), *verdict(run)]
    for heading, body in _sections(run):
        parts += [f"## {heading}", *filter(None, body)]
    return "\n\n".join(parts) + "\n"


def _unfinished(run: Run) -> list[str]:
    if run.setup.get("complete") is not False:
        return []
    done, total = (known(run.setup.get(f"trials_{name}")) for name in ("done", "total"))
    share = f" ({percent(done / total)})" if done is not None and total else ""
    return [
        f"> **Incomplete run.** {count(done)} of {count(total)} calls are done{share}. The figures are of those: "
        "groups and questions that come later are not in them."
    ]


def _sections(run: Run) -> list[tuple[str, list[str]]]:
    """Headings, each with its paragraphs, tables and plots."""
    found = [
        ("Overall", "", [tables.overall(run), "By medians, and what was counted:", tables.medians(run)], ""),
        (
            "Speed by group",
            "Against plain decoding (`none`), with 95 % intervals.",
            [_plot(run, "speedup"), tables.by_group(run, SPEEDUP, ratio, without=(PLAIN,))],
            "",
        ),
        ("Mean accepted tokens by group", "", [tables.by_group(run, "mean_accepted_tokens", mean)], ""),
        (
            "Acceptance by depth",
            "Share of steps that keep at least so many drafted tokens.",
            [_plot(run, "depth"), tables.acceptance(run)],
            "No step kept a drafted token.",
        ),
        (
            "Where the time goes",
            "Milliseconds of a step by phase, means over steps; `host` is the time outside all phases. The prefill's "
            "is that of a call.",
            [_plot(run, "time"), tables.split(run)],
            "Not measured for any method of this run.",
        ),
        ("Drafted and wasted nodes", "A node is wasted if its token is not kept.", [tables.nodes(run)], ""),
        ("Cost of a step", "Median time of a step by the nodes it scores.", [_plot(run, "cost")], "Not measured."),
        (
            "Reliability of scores",
            "How often nodes are accepted against the chance their drafter gave them, and the expected calibration "
            "error (ECE). `path` judges every drafted node; `child` only those below an accepted one.",
            [_plot(run, "reliability"), tables.calibration(run)],
            "No drafter of this run gives scores.",
        ),
        ("Identity with plain decoding", "", [tables.identity(run)], ""),
        ("Task quality", "Answers whose final number is the reference's.", [tables.quality(run)], ""),
        ("Failures", "", [tables.failures(run)], "None."),
        ("Setup", "", [_setup(run), *_command(run)], ""),
        ("How the figures are computed", "", [METHOD], ""),
    ]
    sections = []
    for heading, lead, bodies, otherwise in found:
        if any(bodies):
            sections.append((heading, [lead, *bodies]))
        elif otherwise:
            sections.append((heading, [otherwise]))
    return sections


def _plot(run: Run, name: str) -> str:
    return f"![{plots.PLOTS[name].alt}](plots/{name}.svg)" if name in plots.available(run) else ""


def _setup(run: Run) -> str:
    rows = [[name.replace("_", " "), _told(run.setup[name])] for name in SETUP if name in run.setup]
    return table(["setting", "value"], rows, texts=2)


def _told(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [{"source": name, "count": held} for name, held in value.items()]
    if isinstance(value, list):
        return ", ".join(_counted(item) if isinstance(item, dict) else escape(item) for item in value) or DASH
    return escape(value, 200)


def _counted(item: dict[str, Any]) -> str:
    return f"{escape(item.get('source'))} ({count(item.get('count'))})"


def _command(run: Run) -> list[str]:
    command = run.setup.get("command")
    return ["The command that repeats it:", block(command)] if command else []
