"""The public names, and the shape of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import racer

PACKAGE = Path(racer.__file__).parent
FILES_AT_THE_TOP = 12
LINES_OF_A_FILE = 260
LINES_OF_A_FUNCTION = 60


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


def test_imports_point_downwards() -> None:
    """By the contracts in pyproject.toml, which count imports inside functions too."""
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LINES_OF_A_FUNCTION, node.name


def test_the_top_of_the_package_is_the_front_door() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.suffix == ".py"]) <= FILES_AT_THE_TOP


def test_machine_code_is_made_from_its_own_folder_and_the_kernels() -> None:
    """What is kept on the disk is known by the contents of these two (:mod:`racer.kernels.jit`)."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        compiles = any(
            isinstance(node, ast.FunctionDef) and any("compiled" in ast.unparse(mark) for mark in node.decorator_list)
            for node in ast.walk(tree)
        )
        own = ".".join(("racer", *path.relative_to(PACKAGE).parent.parts))
        for node in ast.walk(tree) if compiles else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("racer"):
                assert node.module.startswith(("racer.kernels", own)), f"{path.name} imports {node.module}"
