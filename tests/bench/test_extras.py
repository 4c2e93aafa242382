"""What an extra brings is asked for in one line, before anything slow, and imported by nobody who does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from racer.loading.extras import EXTRAS

HEAVY = (
    "torch", "transformers", "huggingface_hub", "numba", "numpy", "matplotlib", "jinja2", "cattrs", "markdown_it",
    "rich", "gguf", "accelerate", "scipy", "datasets",
)  # fmt: skip
BLOCKED = """
import sys
sys.modules |= dict.fromkeys({blocked!r})
from racer.cli import main
code = main({arguments!r})
assert "torch" not in sys.modules or {slow}, "nothing slow comes before"
sys.exit(code)
"""


def without(blocked: tuple[str, ...], *arguments: str, slow: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``racer`` where these modules cannot be imported."""
    code = BLOCKED.format(blocked=blocked, arguments=list(arguments), slow=slow)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", EXTRAS["bench"])
def test_racer_bench_names_its_extra(module: str, tmp_path: Path) -> None:
    done = without((module,), "bench", "--output", str(tmp_path / "out"))
    told = f'racer: error: racer bench needs {module}: pip install "racer-decoding[bench]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert not (tmp_path / "out").exists()


def test_all_that_is_missing_is_named() -> None:
    done = without(EXTRAS["bench"], "bench")
    assert "needs cattrs and jinja2 and markdown_it and matplotlib: pip install" in done.stderr


def test_help_needs_no_extra() -> None:
    missing = (*EXTRAS["bench"], *EXTRAS["gguf"])
    for arguments in (["--help"], ["bench", "--help"], ["generate", "--help"], ["plugins", "--help"]):
        assert without(missing, *arguments).returncode == 0


@pytest.mark.parametrize("module", EXTRAS["gguf"])
@pytest.mark.parametrize("command", [["generate", "Why?"], ["bench"]])
def test_a_gguf_file_names_its_extra(module: str, command: list[str], tmp_path: Path) -> None:
    (tmp_path / "small.gguf").touch()
    for name in (tmp_path / "small.gguf", tmp_path):
        done = without((module,), *command, "--model", str(name))
        told = f'racer: error: the GGUF file small.gguf needs {module}: pip install "racer-decoding[gguf]"\n'
        assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_the_embedded_model_names_the_extra_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACER_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = without(("gguf",), "generate", "Why?", slow=True)
    told = "racer: error: the embedded model, which is converted from a GGUF file once, needs gguf: pip install "
    assert done.returncode == 2
    assert done.stderr == f'{told}"racer-decoding[gguf]"\n'


@pytest.mark.parametrize(
    "code",
    [
        "import racer",
        "import racer.errors, racer.hookspecs",
        "from racer.cli import main; main(['--help'])",
        "from racer.cli import main; main(['bench', '--help'])",
        "from racer.cli import main; main(['generate', '--help'])",
        "from racer.cli import main; main(['--version'])",
    ],
)
def test_what_starts_fast_imports_nothing_heavy(code: str) -> None:
    check = f"import sys\n{code}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)), len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    heavy, _, number = done.stdout.splitlines()[-1].rpartition(" ")
    assert heavy == "[]"
    assert int(number) < 600  # about 350 today
