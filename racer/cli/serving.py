"""The server behind ``racer serve``. Imports torch and the web libraries: the command imports it late."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from racer.cli import render
from racer.cli.serve_options import ServeOptions
from racer.config import DecodeConfig
from racer.hf.engine import Engine
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from racer.serve.app import create_app
from racer.serve.server import Server, address_of, bind, is_loopback
from racer.serve.service import Service
from racer.serve.settings import LOOPBACK, ServiceSettings

WARM_UP_TOKENS = 4


def run(options: ServeOptions) -> None:
    """Load the model, and serve it until a signal comes.

    :raises RacerError: the address, the model or the drafter cannot be had.
    """
    config = options.config()
    with bind(options.host, options.port) as place:
        loaded = options.load()
        settings = _settings(options, loaded, place)
        if not is_loopback(place) and not options.api_key:
            render.note(f"whoever reaches {options.host} may ask: --api-key or RACER_API_KEYS would keep strangers out")
        with models.quiet():
            engine = _engine(options, loaded, config)
            app = create_app(Service(loaded, engine, settings))

            def ready() -> None:
                click.echo(f"racer: serving {settings.served_name} at {address_of(place)}")

            Server(app, options.log_level, ready).run(sockets=[place])


def _engine(options: ServeOptions, loaded: LoadedModel, config: DecodeConfig) -> Engine:
    """Ready for requests: the first one shall not wait for what happens once."""
    engine = Engine(
        loaded.model,
        config,
        max_tokens=options.max_tokens,
        max_rows=options.max_rows,
        max_waiting=options.max_waiting,
    )
    prompt = loaded.tokenizer("Once upon a time").input_ids
    few = {"max_new_tokens": WARM_UP_TOKENS, "do_sample": False, "pad_token_id": loaded.pad_token_id}
    engine.submit(prompt, few).result()
    return engine


def _hosts(options: ServeOptions, place: socket.socket) -> tuple[str, ...]:
    """Names under which it answers; none: any."""
    # with a key, a stranger's page that comes under another name gets no further than without one
    if not options.allowed_host and (options.api_key or not is_loopback(place)):
        return ()
    address = place.getsockname()[0]
    return (*LOOPBACK, options.host.lower(), f"[{address}]" if ":" in address else address, *options.allowed_host)


def _settings(options: ServeOptions, loaded: LoadedModel, place: socket.socket) -> ServiceSettings:
    return ServiceSettings(
        served_name=options.served_name or _own_name(loaded.name),
        api_keys=options.api_key,
        default_limit=options.max_new_tokens,
        max_body=options.max_body,
        timeout=options.timeout,
        drain=options.drain,
        cors_origins=options.cors_origin,
        hosts=_hosts(options, place),
        max_waiting=options.max_waiting,
        max_connections=options.max_connections,
    )


def _own_name(name: str) -> str:
    """A hub's id, or a folder's or file's name: where it lies on this machine is nobody's business."""
    place = Path(name)
    return place.resolve().name.removesuffix(".gguf") if place.exists() else name
