"""Load a model by name: a folder, a GGUF file, a hub id, or the small chat model that comes with RACER.

torch and transformers are imported where they are used, so that a wrong name is told before they take their seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from racer.errors import ConfigError, ModelNotFound, first_line
from racer.loading import pretrained
from racer.loading.embedded import EMBEDDED_NAME, KEPT, Progress, embedded_folder, installed_gguf
from racer.loading.loaded_model import LoadedModel
from racer.loading.sources import Source, find

if TYPE_CHECKING:
    from racer.loading.gguf_metadata import GgufMetadata

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
    with _loading(name, source):
        metadata = _metadata(source)
        if choice == "keep" and not _has_few_bits(source, metadata):
            choice = "plain"
        in_bits = choice in ("keep", *MADE)
        model = pretrained.model(source, DTYPES[dtype or ("fp32" if in_bits else "bf16")], metadata).to(place).eval()
        tokenizer = pretrained.tokenizer(source)
        if metadata is not None:
            pretrained.end_turns(model, metadata.turn_ends(tokenizer))
        if in_bits:
            _give_few_bits(model, choice, source, metadata)
    return LoadedModel(model, tokenizer, name or EMBEDDED_NAME, choice)


def _metadata(source: Source) -> GgufMetadata | None:
    """Of a GGUF file; None of a folder."""
    if source.gguf is None:
        return None
    from racer.loading.gguf_metadata import GgufMetadata

    return GgufMetadata(Path(source.place) / source.gguf)


def _has_few_bits(source: Source, metadata: GgufMetadata | None) -> bool:
    """Whether a model has weights that are multiplied as they are stored."""
    from racer.loading.gguf_blocks import TYPES

    return source.blocks is not None if metadata is None else not metadata.types.isdisjoint(TYPES)


def _give_few_bits(model: Any, choice: str, source: Source, metadata: GgufMetadata | None) -> None:
    from racer.loading import keeping

    if choice != "keep":
        keeping.make(model, choice)
    elif metadata is not None:
        keeping.keep(model, metadata.reader)
    elif source.blocks is not None:
        keeping.restore(model, source.blocks)


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


def weights_of(name: str | None, *, dtype: str | None, device: str, weights: str | None) -> str:
    """What :func:`load` would multiply with, without loading it.

    :raises ModelNotFound: see :func:`load`.
    :raises ConfigError: see :func:`load`.
    """
    choice = _weights(weights, dtype, _device(device))
    if choice != "keep" or name is None:  # the embedded model has them
        return choice
    source = find(name)
    with _loading(name, source):
        return choice if _has_few_bits(source, _metadata(source)) else "plain"


def load_tokenizer(name: str | None, *, progress: Progress | None = None) -> Any:
    """The tokenizer alone; ``name`` and ``progress`` as in :func:`load`.

    :raises ModelNotFound: see :func:`load`.
    """
    source = _source(name, progress)
    with _loading(name, source):
        return pretrained.tokenizer(source)


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
    from racer.loading.gguf_metadata import GgufMetadata

    source = Source(str(gguf.parent), gguf=gguf.name)
    with _loading(None, source):
        metadata = GgufMetadata(gguf)
        model = pretrained.model(source, "float32", metadata)
        if hasattr(model.config, "quantization_config"):  # the weights are plain now
            del model.config.quantization_config
        model.save_pretrained(folder)
        keeping.keep(model, metadata.reader)
        keeping.save(model, folder / KEPT)
        pretrained.tokenizer(source).save_pretrained(folder)
