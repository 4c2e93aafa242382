"""The benchmark of a step's parts runs, on a tiny random model and a tiny saved one, and its figures are complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_anatomy.py"
PARTS = {"draft", "mask", "forward", "verify", "top-k", "sync", "commit", "observe", "host"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # one thread: waiting for a busy second core would take most of the test
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--dtype", "fp32", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[str, object]:
    file = tmp_path_factory.mktemp("anatomy") / "figures.json"
    sizes = ("--nodes", "1", "--nodes", "8", "--context", "24", "--repeats", "10")
    done = run("--device", "cpu", "--shape", "tiny", "--shape", str(folder), *sizes, "--output", str(file))
    assert done.returncode == 0, done.stderr
    for line in ("step, no clocks", "all but the forward", "floor by bandwidth", "tiny, 24 tokens"):
        assert line in done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_report_has_every_shape_and_size(report: dict, folder: Path) -> None:
    assert (report["device"], report["dtype"]) == ("cpu", "fp32")
    assert [shape["shape"] for shape in report["shapes"]] == ["tiny", str(folder)]
    for shape in report["shapes"]:
        assert [size["nodes"] for size in shape["sizes"]] == [1, 8]
        assert shape["context"] == 24
        assert shape["gigabytes_per_second"] > 0
        assert shape["teraflops_per_second"] > 0


def test_steps_in_static_shapes_have_parts_too(tmp_path: Path) -> None:
    sizes = ("--nodes", "1", "--nodes", "8", "--context", "24", "--repeats", "5", "--output", str(tmp_path / "figures"))
    done = run("--device", "cpu", "--compile", "static", "--shape", "tiny", *sizes)
    assert done.returncode == 0, done.stderr
    for size in json.loads((tmp_path / "figures").read_text(encoding="utf-8"))["shapes"][0]["sizes"]:
        parts = size["parts_ms"]
        assert 0 < parts["forward"] < size["step_ms"]
        assert 0 < parts["mask"] < size["step_ms"]


def test_the_parts_of_a_step_are_about_the_step(report: dict) -> None:
    for size in (size for shape in report["shapes"] for size in shape["sizes"]):
        assert set(size["parts_ms"]) == PARTS
        assert size["steps"] == 10
        assert all(spent >= 0 for spent in size["parts_ms"].values())
        total = sum(size["parts_ms"].values()) / size["step_ms"]
        assert 0.5 < total < 1.5  # medians of a busy machine do not add up exactly
        assert 0 < size["parts_ms"]["forward"] < size["step_ms"]
        assert size["outside_share"] == pytest.approx(1 - size["parts_ms"]["forward"] / size["step_ms"])


def test_the_clocks_leave_nothing_out_and_count_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from racer import DecodeConfig, Decoder
    from racer.testing import toy_model
    from racer.testing.kit import decode

    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import clocks

    decoder = Decoder(toy_model(), DecodeConfig(drafter="racer-paper", budget=8))
    watch = clocks.Clocks(torch.device("cpu"))
    with clocks.clocks_on(decoder, watch):
        _, stats = decode(decoder, [[1, 2, 3]], 60)
    assert len(watch.steps) == stats.steps
    timed = sum(sum(step.values()) for step in watch.steps)
    whole = (stats.seconds - stats.first_token_seconds) * 1e3
    assert 0.6 * whole < timed < whole
    decode(decoder, [[1, 2, 3]], 5)
    assert len(watch.steps) == stats.steps, "the clocks were left on"


def test_floors_are_those_of_the_weights(report: dict) -> None:
    tiny = report["shapes"][0]
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # queries and output, keys and values, MLP
    assert tiny["weights"] == 2 * layer + 320 * 32
    read = 4 * (tiny["weights"] + 24 * 2 * 2 * 16)  # context, layers, keys and values, heads * head_dim
    for size in tiny["sizes"]:
        bandwidth = read / tiny["gigabytes_per_second"] / 1e6
        arithmetic = 2 * size["nodes"] * tiny["weights"] / tiny["teraflops_per_second"] / 1e9
        assert size["floor_ms"] == pytest.approx({"bandwidth": bandwidth, "arithmetic": arithmetic})
        assert size["forward_to_floor"] == pytest.approx(size["parts_ms"]["forward"] / max(bandwidth, arithmetic))


def test_a_shape_that_does_not_fit_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import random_models

    monkeypatch.setattr(random_models, "free_bytes", lambda device: 1e9)
    with pytest.raises(MemoryError, match=r"needs 20\.1 GB on cpu, and 1\.0 GB are free"):
        random_models.random_model("8b", torch.device("cpu"), torch.bfloat16)
