"""``racer serve``."""

from __future__ import annotations

from typing import Any

import click

from racer.cli import options as checked
from racer.cli import serve_options as wanted
from racer.loading import sources
from racer.loading.extras import require


@click.command()
@checked.model_option
@checked.machine_options
@checked.drafter_option
@checked.budget_option
@click.option(
    "--host", metavar="H", default="127.0.0.1", show_default=True, help="Where to listen: an address or name."
)
@click.option(
    "--port", callback=wanted.port, metavar="P", default="8000", show_default=True, help="0 takes any that is free."
)
@click.option(
    "--served-name",
    callback=wanted.printable,
    metavar="NAME",
    help="What clients call the model.  [default: the model's own name]",
)
@click.option(
    "--api-key",
    multiple=True,
    callback=wanted.keys,
    metavar="KEY",
    help="Answer only requests that bring it. Repeat for more: each is a tenant, and nothing learned from one tenant's "
    "text is drafted to another. Others can see command lines: the variable RACER_API_KEYS takes keys too, with commas "
    "between them.",
)
@click.option(
    "--max-tokens",
    callback=checked.count,
    metavar="N",
    default="32768",
    show_default=True,
    help="Slots of the key-value cache, all requests together.",
)
@click.option(
    "--max-rows", callback=checked.count, metavar="N", default="16", show_default=True, help="Requests decoded at once."
)
@click.option(
    "--max-waiting",
    callback=checked.count,
    metavar="N",
    default="256",
    show_default=True,
    help="Requests that may wait.",
)
@click.option(
    "--max-new-tokens",
    callback=checked.count,
    metavar="N",
    default="1024",
    show_default=True,
    help="Length limit of chat answers where the request names none: so much room is kept for it.",
)
@click.option(
    "--max-body", callback=checked.count, metavar="BYTES", default="1048576", show_default=True, help="Of a request."
)
@click.option(
    "--max-connections",
    callback=checked.count,
    metavar="N",
    default="512",
    show_default=True,
    help="Clients that may be connected at once.",
)
@click.option(
    "--timeout",
    callback=wanted.seconds,
    metavar="S",
    default="600",
    show_default=True,
    help="Seconds until a request is ended.",
)
@click.option(
    "--drain",
    callback=wanted.seconds,
    metavar="S",
    default="30",
    show_default=True,
    help="Seconds that running requests have when the server is told to stop (SIGTERM, Ctrl-C).",
)
@click.option(
    "--cors-origin",
    multiple=True,
    callback=wanted.origins,
    metavar="ORIGIN",
    help="Let pages of this origin ask from a browser, as in https://example.org. Repeat for more.  [default: none]",
)
@click.option(
    "--allowed-host",
    multiple=True,
    callback=wanted.hosts,
    metavar="NAME",
    help="Answer under this name too, as a proxy passes it on, and under no others but this machine's. Repeat for "
    "more.  [default: this machine's names if only it can ask, and without a key; else any]",
)
@click.option(
    "--log-level",
    type=click.Choice(["error", "warning", "info", "debug"]),
    default="warning",
    show_default=True,
    help="info tells of every request.",
)
def serve(**given: Any) -> None:
    """Serve a model by OpenAI's HTTP interface, with drafts for every request, and a page for the browser.

    It prints one line with its address when it takes requests. What it needs comes with
    'pip install "racer-decoding[serve]"'.

    \b
    Examples:
      racer serve
      racer serve --model Qwen/Qwen3-0.6B --served-name qwen --port 9000
      racer serve --model FILE.gguf --max-rows 8 --max-tokens 65536
      RACER_API_KEYS=secret1,secret2 racer serve --host 0.0.0.0
      curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0}'
    """
    options = wanted.ServeOptions(**given)
    require("serve", "racer serve")
    if options.model is not None:
        sources.find(options.model)  # a wrong path is told before torch is imported
    from racer.cli.serving import run

    run(options)
