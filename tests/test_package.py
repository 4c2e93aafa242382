"""The public names, and the shape of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import racer

PACKAGE = Path(racer.__file__).parent
RANKS = [
    {"kernels", "config", "errors"},
    {"step"},
    {"hookspecs", "registry", "discovery", "guard"},
    {"core"},
    {"budgets", "strategies", "verifiers"},
    {"hf", "engine"},
    {"loading"},
    {"testing", "bench", "cli"},
]
MAY_IMPORT_TRANSFORMERS = {"core", "engine", "hf", "loading", "testing", "cli", "bench"}


def test_public_names_are_there_and_no_others() -> None:
    assert sorted(racer.__all__) == sorted(racer._HOME_OF)
    for name in racer.__all__:
        assert getattr(racer, name) is not None
        assert name in dir(racer)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        racer.nothing  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, racer, racer.errors; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plain_decoding_of_one_row_does_without_numba() -> None:
    code = """
import sys
from racer import DecodeConfig, Decoder
from racer.testing import decode, toy_model
decode(Decoder(toy_model(), DecodeConfig(drafter="none")), [[1, 2, 3]], 5)
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def imports(path: Path) -> list[str]:
    """Modules that a file imports when it runs (not those for type checkers, nor inside functions)."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def rank(module: str) -> int:
    return next(i for i, names in enumerate(RANKS) if module in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for module in imports(path):
        if module.startswith("racer."):
            other = module.split(".")[1]
            assert rank(other) <= rank(room), f"{room} imports {other}, which is above it"
        if module.split(".")[0] == "transformers":
            assert room in MAY_IMPORT_TRANSFORMERS
        if room in ("core", "decoder"):
            assert "strategies" not in module, "the core knows no strategy"
