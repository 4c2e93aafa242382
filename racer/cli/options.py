"""What a command was asked for, checked as far as that goes without torch."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

from racer.cli.model_options import ModelOptions
from racer.config import COMPILE, Choice, DecodeConfig
from racer.errors import ConfigError
from racer.loading.loaded_model import sampling_arguments

MEND = "add --temperature (for example 0.8) or --verifier sampling"


Check = Callable[[click.Context, click.Parameter, Any], Any]
"""A click callback: takes what was typed, gives the value, or raises ``click.BadParameter``."""


def number(kind: type[int] | type[float], accepts: Callable[[Any], bool], words: str) -> Check:
    """A number that passes a test; not-a-number passes none."""

    def check(ctx: click.Context, param: click.Parameter, typed: str | None) -> Any:
        if typed is None:
            return None
        try:
            value: int | float | None = kind(typed)
        except ValueError:
            value = None
        if value is None or value != value or not accepts(value):
            raise click.BadParameter(f"expected {words}, not {typed!r}", ctx, param)
        return value

    return check


def budget(ctx: click.Context, param: click.Parameter, typed: str) -> int | str:
    """``auto``, a number of nodes, or the name of a budget that a plugin registered."""
    try:
        value: int | str = int(typed)
    except ValueError:
        value = typed
    try:
        DecodeConfig(budget=value)
    except ConfigError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return value


def drafter(ctx: click.Context, param: click.Parameter, typed: str) -> str | Choice:
    """A name, or with parameters ``NAME:KEY=VALUE,...``, which are what TOML has between the braces of a table."""
    name, colon, parameters = typed.partition(":")
    if not colon:
        return name
    try:
        tables = tomllib.loads(f"choice = {{{parameters}}}")
        choice = Choice(name, tables.pop("choice"))
        if not tables:
            return choice if choice.options else name
    except (tomllib.TOMLDecodeError, ConfigError):
        pass
    expected = "expected DRAFTER or DRAFTER:KEY=VALUE,... with values as in TOML (text in quotes)"
    raise click.BadParameter(f"{expected}, not {typed!r}", ctx, param)


def limit(ctx: click.Context, param: click.Parameter, typed: str) -> int | None:
    """A number of questions from 1; None for ``all``."""
    return None if typed == "all" else count(ctx, param, typed)


def state(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """A file that is there or can be made: nobody wants to hear of it after the answer."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}: make it first", ctx, param)
    if path is not None and path.exists() and not path.is_file():
        raise click.BadParameter(f"{path} is no regular file", ctx, param)
    return path


class Place(click.Path):
    """A path that the system can have at all."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fspath(value)
        if not text:
            self.fail("expected a path, not an empty text", param, ctx)
        try:
            text = os.fspath(Path(text).expanduser())
            os.stat(text)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL, half a character; the home of nobody
            reason = error.strerror if isinstance(error, OSError) else "it cannot be a path"
            self.fail(f"{text!r}: {reason}", param, ctx)
        return super().convert(text, param, ctx)


count = number(int, lambda n: 1 <= n < 2**31, "a whole number from 1 to 2**31 - 1")
seed = number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
temperature = number(float, lambda t: t == 0 or 1e-6 <= t <= 1e6, "0 (greedy) or a number from 1e-6 to 1e6")
top_k = number(int, lambda k: 0 <= k < 2**31, "a whole number from 1 to 2**31 - 1, or 0 for no limit")
top_p = number(float, lambda p: 0 < p <= 1, "a number above 0 and at most 1")
min_p = number(float, lambda p: 0 <= p <= 1, "a number from 0 to 1")


model_option = click.option(
    "--model", metavar="M", help="A folder, a .gguf file or a hub id.  [default: a small chat model, fetched once]"
)
drafter_option = click.option(
    "--drafter",
    callback=drafter,
    metavar="D[:KEY=VALUE,...]",
    default="racer",
    show_default=True,
    help="Who guesses, and its parameters, as TOML writes them; see 'racer plugins'.",
)
budget_option = click.option(
    "--budget",
    callback=budget,
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Tree nodes scored a step, for each text.",
)
temperature_option = click.option(
    "--temperature", callback=temperature, metavar="T", help="Sample at this temperature; 0 is greedy."
)
top_p_option = click.option(
    "--top-p", callback=top_p, metavar="P", help="Sample from the most likely tokens that sum to P."
)


dtype_option = click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    help="Of plain weights and of activations.  [default: fp32 where weights are in few bits, else bf16]",
)
weights_option = click.option(
    "--weights",
    type=click.Choice(["keep", "bf16", "int8", "int4"]),
    help="What to multiply with: the bits of the GGUF file (keep), plain numbers (bf16), or numbers rounded to these "
    "bits.  [default: keep, or plain numbers of --dtype]",
)
device_option = click.option(
    "--device", metavar="D", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto prefers cuda."
)


compile_option = click.option(
    "--compile",
    type=click.Choice(COMPILE),
    default="auto",
    show_default=True,
    help="How steps reach the device: as CUDA graphs, with the forward compiled by torch (inductor), in the same "
    "static shapes but uncaptured, or each as it is (off).",
)


pack_option = click.option(
    "--pack/--no-pack",
    default=None,
    callback=lambda _ctx, _param, typed: "auto" if typed is None else typed,
    help="On a CPU, keep a second copy of the weights in the layout of its matrix kernels: faster, for twice the "
    "memory.  [default: for models up to 1 GiB]",
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of what a command multiplies with, and where."""
    for option in (pack_option, device_option, weights_option, dtype_option):
        command = option(command)
    return command


@attrs.frozen(kw_only=True)
class Options(ModelOptions):
    """The options of one ``racer generate``."""

    prompt: str
    drafter: str | Choice
    verifier: str
    budget: int | str
    compile: str
    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    raw: bool
    compare: bool
    state: Path | None
    json: bool

    def __attrs_post_init__(self) -> None:
        if not self.prompt.strip():
            raise click.UsageError("the prompt is empty: give some text")
        if self.verifier == "auto":
            self.samples(None)  # tells what contradicts itself, before anything slow

    def samples(self, verifier_samples: bool | None) -> bool:
        """Whether to sample; ``verifier_samples`` is what the verifier says of itself (None: it takes both).

        :raises click.UsageError: options that contradict each other or would be ignored; the message names the mend.
        """
        sample = bool(verifier_samples) if self.temperature is None else self.temperature > 0
        if verifier_samples is not None and verifier_samples != sample:
            asks = "sampling" if sample else "greedy decoding"
            does = "samples" if verifier_samples else "decodes greedily"
            raise click.UsageError(
                f"--temperature {self.temperature:g} asks for {asks}, but verifier {self.verifier!r} {does}: drop one"
            )
        for name in ("top_p", "top_k", "min_p", "seed"):
            if getattr(self, name) is not None and not sample:
                raise click.UsageError(f"--{name.replace('_', '-')} has no effect without sampling: {MEND}")
        return sample

    def sampling(self, sample: bool) -> dict[str, Any]:
        """Arguments for ``generate``, all of them given, so that no default of a model's own comes in unasked."""
        return sampling_arguments(sample, self.temperature, self.top_p, self.top_k, self.min_p)

    def drawn_seed(self, sample: bool) -> int | None:
        """The given seed or a fresh one; None for greedy decoding, which needs none."""
        if not sample:
            return None
        return secrets.randbelow(2**31) if self.seed is None else self.seed
