"""Load a model by name: a folder, a GGUF file, a hub id, or the small chat model that comes with RACER.

torch and transformers are imported where they are used, so that a wrong name is told before they take their seconds.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

from racer.errors import ConfigError, ModelNotFound, first_line
from racer.loading.embedded import EMBEDDED_NAME, KEPT, Progress, embedded_folder, installed_gguf
from racer.loading.loaded_model import LoadedModel
from racer.loading.sources import Source, find

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "auto"}


MADE = ("int8", "int4")
WEIGHTS = ("keep", "bf16", *MADE)
"""What weights may be multiplied as; some are made from plain ones."""


def load(
    name: str | None,
    *,
    dtype: str | None = None,
    device: str = "auto",
    weights: str | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """A causal LM in evaluation mode, and its tokenizer.

    :param name: a folder, a ``.gguf`` file or a hub id; None is the embedded model, fetched on first use.
    :param dtype: ``bf16``, ``fp16``, ``fp32``, or ``auto`` (as stored), of plain weights and of activations. None: fp32
        where weights are in few bits, else bf16.
    :param weights: ``keep``: in the bits of the GGUF file, where this machine can multiply so; ``int8`` or ``int4``:
        rounded to these; ``bf16``: plain. None: ``keep`` if no dtype is given, else plain weights of that dtype.
    :param device: as torch names it; ``auto`` is CUDA where there is one, else the CPU.
    :param progress: told how far the embedded model's fetching is.
    :raises ModelNotFound: nothing there that can be loaded; the message says what would help.
    :raises ConfigError: an unknown dtype, a device that is not there, a GGUF file without the extra ``gguf``, or
        weights that cannot be had so on this machine or contradict the dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: there are {', '.join(DTYPES)}")
    place = _device(device)
    choice = _weights(weights, dtype, place)
    source = _source(name, progress)
    file = source.blocks if choice == "keep" else None
    in_bits = file is not None or choice in MADE
    with _loading(name, source):
        model = _load_model(source, dtype or ("fp32" if in_bits else "bf16")).to(place).eval()
        tokenizer = _load_tokenizer(source)
        if in_bits:
            from racer.loading import keeping

            if file is None:
                keeping.make(model, choice)
            elif file.suffix == ".gguf":
                keeping.keep(model, file)
            else:
                keeping.restore(model, file)
    return LoadedModel(model, tokenizer, name or EMBEDDED_NAME, choice if in_bits else "plain")


def _weights(choice: str | None, dtype: str | None, device: Any) -> str:
    """What is asked for, as far as it can be had here.

    :raises ConfigError: it cannot.
    """
    if choice is not None and choice not in WEIGHTS:
        raise ConfigError(f"unknown weights {choice!r}: there are {', '.join(WEIGHTS)}")
    if choice == "bf16" and dtype not in (None, "bf16"):
        raise ConfigError(f"weights 'bf16' contradict dtype {dtype!r}: drop one")
    if choice is None:
        choice = "keep" if dtype is None else "plain"
    if choice == "keep" or choice in MADE:
        from racer.loading import keeping

        why = f"the model is on {device}" if device.type != "cpu" else keeping.obstacle()
        if why and choice != "keep":
            raise ConfigError(f"weights {choice!r} are for CPUs that multiply bytes ({why}): try 'bf16'")
        if why:
            return "plain"
    return choice


def load_tokenizer(name: str | None, *, progress: Progress | None = None) -> Any:
    """The tokenizer alone; ``name`` and ``progress`` as in :func:`load`.

    :raises ModelNotFound: see :func:`load`.
    """
    source = _source(name, progress)
    with _loading(name, source):
        return _load_tokenizer(source)


def gguf_file(name: str | None) -> Path | None:
    """The GGUF file that a model's name leads to; None where that is something else.

    For the embedded model, which RACER keeps converted, it is the file of the installed package that carries it.

    :raises ModelNotFound: see :func:`find`.
    :raises ConfigError: see :func:`find`.
    """
    if name is None:
        return installed_gguf()
    source = find(name)
    return Path(source.place).absolute() / source.gguf if source.gguf else None


@contextmanager
def quiet(*, hub: bool = False) -> Iterator[None]:
    """Silence transformers' log lines and progress bars inside; ``hub`` keeps the bars of downloads."""
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()
    restore_downloads = disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars
    logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)  # it tells every retry
    logging.disable_progress_bar()  # which takes the hub's bars along
    if hub:
        restore_downloads()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
        restore_downloads()


# -- loading --------------------------------------------------------------------------------------------------------


def _source(name: str | None, progress: Progress | None) -> Source:
    if name is not None:
        return find(name)
    folder = embedded_folder(convert, progress)
    return Source(str(folder), blocks=folder / KEPT)


def _device(device: str) -> Any:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: expected auto, cpu, cuda, cuda:1 or the like") from error
    try:
        torch.zeros(1, device=place).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError and more, by device
        raise ConfigError(f"device {device!r} cannot be used: {first_line(error)} (try 'cpu' or 'auto')") from error
    return place


def _load_model(source: Source, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    wanted = DTYPES[dtype]
    given: dict[str, Any] = {"dtype": wanted if wanted == "auto" else getattr(torch, wanted)}
    if source.gguf:
        given |= {"gguf_file": source.gguf, **_dequantized()}
    # the GGUF reader's progress bar knows no switch
    with redirect_stderr(io.StringIO()) if source.gguf else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(source.place, **given)
    if model.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")  # flash attention cannot take a tree mask
    return model


def _dequantized() -> dict[str, Any]:
    """Ask for plain weights where transformers would keep a GGUF's blocks; older ones always give plain weights."""
    try:
        from transformers.utils.quantization_config import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _load_tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.place, **({"gguf_file": source.gguf} if source.gguf else {}))


@contextmanager
def _loading(name: str | None, source: Source) -> Iterator[None]:
    """Load quietly; whatever the loaders raise becomes one line that says what would help."""
    try:
        with quiet(hub=source.hub), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        help_ = "check the id and the network, set HF_HOME to a cache that has it, or give a local folder"
        ending = f" from the hub: {first_line(error)} ({help_})" if source.hub else f": {first_line(error)}"
        raise ModelNotFound(f"cannot load {name or EMBEDDED_NAME}{ending}") from error


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF's dequantised weights, in full precision, and its tokenizer as transformers stores them.

    And its weights in its own bits, as they are multiplied: to read them from the GGUF again takes seconds.
    """
    from racer.loading import keeping

    source = Source(str(gguf.parent), gguf=gguf.name)
    with _loading(None, source):
        model = _load_model(source, "fp32")
        if hasattr(model.config, "quantization_config"):  # the weights are plain now
            del model.config.quantization_config
        model.save_pretrained(folder)
        keeping.keep(model, gguf)
        keeping.save(model, folder / KEPT)
        _load_tokenizer(source).save_pretrained(folder)
