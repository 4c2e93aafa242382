"""Tokens per second of servers at several numbers of requests at once, in turns, in one run.

    python benchmarks/serving.py
    python benchmarks/serving.py --peer transformers --at 1 --at 4 --rounds 2

`racer serve`, the same with drafting off, and on request `transformers serve` (one request at a time through
`generate`, or `transformers-batching`, which batches), each a process of its own that is idle while others are
measured. The built-in questions go to each by OpenAI's client, so many at once; whole answers count, prompts included.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import httpx
import openai

from racer.bench.questions import BUILTIN, load_questions
from racer.loading import models

DRAFTING, PLAIN = "racer serve", "racer serve, drafting off"
TRANSFORMERS = {"transformers": (), "transformers-batching": ("--continuous-batching",)}
START_SECONDS = 300
WARM_UP = ["Once upon a time", "What is a lamp?"]


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.option("--dtype", default="bf16", show_default=True)
@click.option(
    "--at", "numbers", type=int, multiple=True, default=(1, 4, 8), show_default=True, help="Requests at once."
)
@click.option(
    "--questions",
    type=int,
    default=16,
    show_default=True,
    help="In each round, at each number; none is asked twice, as servers remember.",
)
@click.option("--source", default=BUILTIN, show_default=True, help="Where the questions are from.")
@click.option("--max-new-tokens", type=int, default=64, show_default=True)
@click.option("--rounds", type=int, default=1, show_default=True, help="Medians of so many are told.")
@click.option("--peer", "peers", type=click.Choice(list(TRANSFORMERS)), multiple=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(
    dtype: str,
    numbers: tuple[int, ...],
    questions: int,
    source: str,
    max_new_tokens: int,
    rounds: int,
    peers: tuple[str, ...],
    output: Path | None,
) -> None:
    texts = [question.turns[0] for question in load_questions([source])]
    shares = len(numbers) * rounds
    needed = shares * questions
    if len(texts) < needed:
        raise click.ClickException(f"{shares} times {questions} questions are needed, and there are {len(texts)}")
    texts = [texts[place * len(texts) // needed] for place in range(needed)]  # of all groups, which lie side by side
    order = iter([texts[share::shares] for share in range(shares)])
    folder = str(models.load(None, dtype=dtype).model.config._name_or_path)
    racer_serve = [sys.executable, "-m", "racer.cli", "serve", "--dtype", dtype, "--served-name", folder]
    commands = {DRAFTING: racer_serve, PLAIN: [*racer_serve, "--drafter", "none"]}
    for peer in peers:
        precision = {"bf16": "bfloat16", "fp32": "float32"}[dtype]
        program = str(Path(sys.executable).with_name("transformers"))
        commands[peer] = [program, "serve", folder, "--dtype", precision, *TRANSFORMERS[peer]]
    speeds: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_served(command)) for name, command in commands.items()}
        for name, url in servers.items():
            asyncio.run(_ask(url, folder, WARM_UP, 2, 8))
            click.echo(f"{name} is warm", err=True)
        for turn in range(rounds):
            for at in numbers:
                asked = next(order)
                for name in list(servers)[turn % len(servers) :] + list(servers)[: turn % len(servers)]:
                    speed = asyncio.run(_ask(servers[name], folder, asked, at, max_new_tokens))
                    speeds.setdefault((name, at), []).append(speed)
                    click.echo(f"round {turn + 1}, {at} at once, {name}: {speed:.1f} tokens/s", err=True)
    _tell(speeds, list(servers), numbers)
    if output is not None:
        found = [{"server": name, "at": at, "tokens_per_second": told} for (name, at), told in speeds.items()]
        output.write_text(json.dumps(found, indent=1), encoding="utf-8")


@contextmanager
def _served(command: list[str]) -> Iterator[str]:
    """The address of a server that runs until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    ) as process:
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
            while True:
                try:
                    if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if process.poll() is not None or time.monotonic() > end:
                    raise click.ClickException(f"does not come up: {' '.join(command)}")
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()


async def _ask(url: str, model: str, texts: list[str], at: int, new: int) -> float:
    """Tokens per second of all answers, ``at`` of them at once."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=0)
    places, tokens = asyncio.Semaphore(at), 0

    async def one(text: str) -> None:
        nonlocal tokens
        async with places:
            answer = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], max_tokens=new, temperature=0
            )
        assert answer.usage is not None
        tokens += answer.usage.completion_tokens

    started = time.perf_counter()
    await asyncio.gather(*map(one, texts))
    await client.close()
    return tokens / (time.perf_counter() - started)


def _tell(speeds: dict[tuple[str, int], list[float]], servers: list[str], numbers: tuple[int, ...]) -> None:
    click.echo("| server | " + " | ".join(f"{at} at once" for at in numbers) + " |")
    click.echo("|---" * (len(numbers) + 1) + "|")
    for name in servers:
        cells = []
        for at in numbers:
            ratio = statistics.median(
                ours / plain for ours, plain in zip(speeds[name, at], speeds[PLAIN, at], strict=True)
            )
            cells.append(f"{statistics.median(speeds[name, at]):.1f} ({ratio:.2f}x)")
        click.echo(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
