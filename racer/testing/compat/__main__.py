"""``python -m racer.testing.compat``"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import click
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from racer.testing.compat.check import Finding, check
from racer.testing.compat.report import page

MARK = "finding: "


def names() -> list[str]:
    """All causal classes of this transformers."""
    flat = (name for found in CAUSAL.values() for name in ([found] if isinstance(found, str) else found))
    return sorted({name for name in flat if hasattr(transformers, name)}, key=str.lower)


def apart(name: str, seconds: float) -> Finding:
    """A class's finding, made by a process of its own: one that hangs or dies stops nobody."""
    command = [sys.executable, "-m", "racer.testing.compat", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Finding(name, "not buildable", f"it takes more than {seconds:.0f} seconds")
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return Finding(name, "not buildable", f"its process ended: {last[:160]}")
    return Finding(**json.loads(line.removeprefix(MARK)))


def sweep(chosen: Sequence[str], jobs: int, seconds: float) -> list[Finding]:
    """The findings of all these classes, so many at once."""
    with Progress(console=Console(stderr=True)) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("classes", total=len(chosen))
        findings = []
        for finding in pool.map(lambda name: apart(name, seconds), chosen):
            progress.console.print(f"{finding.name}: {finding.way} {finding.reason[:100]}", markup=False)
            progress.advance(task)
            findings.append(finding)
    return findings


@click.command()
@click.option("--only", multiple=True, help="A class, or the beginning of its name; may be given several times.")
@click.option("--output", type=click.Path(path_type=Path), help="Where the table goes, as Markdown.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Where the findings go, as JSON.")
@click.option("--jobs", default=2, show_default=True, help="Classes that are tried at once.")
@click.option("--seconds", default=120.0, show_default=True, help="For each class.")
@click.option("--one", hidden=True, help="Print one class's finding.")
def main(
    only: tuple[str, ...], output: Path | None, as_json: Path | None, jobs: int, seconds: float, one: str | None
) -> None:
    """Decode with a tiny model of every causal class of transformers, and compare.

    \b
    Examples:
      python -m racer.testing.compat --output docs/compatibility.md
      python -m racer.testing.compat --only Llama --only Qwen3
    """
    if one:
        click.echo(MARK + json.dumps(attrs.asdict(check(getattr(transformers, one)))))
        return
    chosen = [name for name in names() if not only or name.startswith(only)]
    if not chosen:
        raise click.UsageError(f"no class of transformers {transformers.__version__} begins with {', '.join(only)}")
    findings = sweep(chosen, jobs, seconds)
    if as_json is not None:
        as_json.write_text(json.dumps([attrs.asdict(finding) for finding in findings], indent=1), encoding="utf-8")
    if output is not None:
        output.write_text(page(findings), encoding="utf-8")
    if wrong := [finding for finding in findings if finding.way == "WRONG"]:
        for finding in wrong:
            click.echo(f"WRONG {finding.name}: {finding.reason}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
