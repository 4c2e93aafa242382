"""``python -m racer.testing.compat``"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import click
import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as TEXT_TO_TEXT
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES as SPEECH_TO_TEXT

from racer.testing.compat.check import Finding, check
from racer.testing.compat.report import page


def names() -> list[str]:
    """All causal classes of this transformers, and all that decode behind an encoder of text or speech."""
    flat = {name for found in CAUSAL.values() for name in ([found] if isinstance(found, str) else found)}
    encoders = {*TEXT_TO_TEXT.values(), *SPEECH_TO_TEXT.values()}
    chosen = {*flat, *(name for name in encoders if isinstance(name, str) and _has_encoder(name))}
    return sorted({name for name in chosen if hasattr(transformers, name)}, key=str.lower)


def _has_encoder(name: str) -> bool:
    try:
        config: Any = getattr(transformers, name).config_class()
    except Exception:  # it has no defaults, or needs a package that is not here
        return False
    return bool(getattr(config, "is_encoder_decoder", False))


def apart(name: str, seconds: float, seed: int = 0) -> Finding:
    """A class's finding, made by a process of its own: one that hangs or dies stops nobody."""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(name, seed, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Finding(name, "not buildable", f"it takes more than {seconds:.0f} seconds")
        finding: Finding = receiver.recv()
        return finding
    except EOFError:
        process.join()
        return Finding(name, "not buildable", f"its process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _send(name: str, seed: int, sender: Any) -> None:
    torch.set_num_threads(1)
    sender.send(check(getattr(transformers, name), seed))


def sweep(chosen: Sequence[str], jobs: int, seconds: float, seed: int = 0) -> list[Finding]:
    """The findings of all these classes, so many at once."""
    with Progress(console=Console(stderr=True)) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("classes", total=len(chosen))
        findings = []
        for finding in pool.map(lambda name: apart(name, seconds, seed), chosen):
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
@click.option("--seed", default=0, show_default=True, help="Of the models' weights.")
def main(
    only: tuple[str, ...], output: Path | None, as_json: Path | None, jobs: int, seconds: float, seed: int
) -> None:
    """Decode with a tiny model of every causal class of transformers, and compare.

    \b
    Examples:
      python -m racer.testing.compat --output docs/compatibility.md
      python -m racer.testing.compat --only Llama --only Qwen3
    """
    chosen = [name for name in names() if not only or name.startswith(only)]
    if not chosen:
        raise click.UsageError(f"no class of transformers {transformers.__version__} begins with {', '.join(only)}")
    findings = sweep(chosen, jobs, seconds, seed)
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
