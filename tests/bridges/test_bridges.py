"""The page on other libraries is true: its code, run with them, gives the texts of plain decoding."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import racer

PAGE = Path(__file__).parents[2] / "docs" / "bridges.md"
PROMPTS = [f"{start} number {index}: the dog and the tree" for index in range(4) for start in ("One", "Two", "A", "So")]

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # theirs, which are many
    pytest.mark.filterwarnings("error::racer.PlainDecodingWarning"),  # it is RACER that decodes
]


def block_under(title: str) -> str:
    """A section's first block of code."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, flags=re.S)
    assert found
    return found[1]


def code_under(title: str) -> dict[str, Any]:
    """What that defines."""
    space: dict[str, Any] = {"__name__": "page"}
    exec(block_under(title), space)
    return space


@pytest.fixture
def model(folder: Path) -> Any:
    """In float32, not attached."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def test_pipelines(model: Any, tokenizer: Any) -> None:
    from transformers import pipeline

    plain = pipeline("text-generation", model=copy.deepcopy(model), tokenizer=tokenizer)
    want = [plain(prompt, max_new_tokens=32, do_sample=False)[0]["generated_text"] for prompt in PROMPTS[:6]]
    assert code_under("Pipelines")["answer"](model, tokenizer, PROMPTS[:6]) == want


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder with a task of our own: sixteen prompts that the model continues, and a choice of answers."""
    lines = [{"prompt": prompt, "answer": "the dog", "choices": [" the dog", " a tree"]} for prompt in PROMPTS]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = {"test": str(tmp_path / "lines.jsonl")}
    source = f"dataset_path: json\ndataset_kwargs: {json.dumps({'data_files': data, 'cache_dir': str(tmp_path)})}\n"
    source += 'test_split: test\ndoc_to_text: "{{prompt}}"\n'
    write = 'output_type: generate_until\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: exact_match}]\n'
    write += 'generation_kwargs: {until: ["dog", "."], max_gen_toks: 40, do_sample: false}\n'
    choose = "output_type: multiple_choice\ndoc_to_target: 0\ndoc_to_choice: choices\nmetric_list: [{metric: acc}]\n"
    (tmp_path / "write.yaml").write_text(f"task: racer_write\n{source}{write}", encoding="utf-8")
    (tmp_path / "choose.yaml").write_text(f"task: racer_choose\n{source}{choose}", encoding="utf-8")
    return tmp_path


def _answers(found: Any) -> dict[str, Any]:
    return {
        name: [sample["resps"] for sample in sorted(samples, key=lambda sample: int(sample["doc_id"]))]
        for name, samples in found["samples"].items()
    }


@pytest.mark.slow
def test_lm_evaluation_harness(model: Any, tokenizer: Any, task: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    settings = {"task_manager": TaskManager(include_path=str(task), include_defaults=False), "bootstrap_iters": 0}
    tasks = ["racer_write", "racer_choose"]
    plain = HFLM(pretrained=copy.deepcopy(model), tokenizer=tokenizer, batch_size=1)
    want = _answers(lm_eval.simple_evaluate(model=plain, tasks=tasks, log_samples=True, **settings))
    assert len({str(answer) for answer in want["racer_write"]}) > 4
    evaluate = code_under("lm-evaluation-harness")["evaluate"]
    for batch_size in (1, 4):
        found = _answers(evaluate(model, tokenizer, tasks, batch_size, **settings))
        assert found["racer_write"] == want["racer_write"]
        assert found == want or batch_size > 1, "log-likelihoods are rounded otherwise in batches"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Ray with two processors."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_data(cluster: Any, folder: Path, model: Any, tokenizer: Any) -> None:
    want = {}
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=0)
        want[prompt] = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = code_under("Ray Data")["answers"]
    for actors in (1, 2):
        found = {row["prompt"]: row["answer"] for row in answers(PROMPTS, folder, actors)}
        assert found == want, actors


@pytest.mark.slow
def test_transformers_serve(folder: Path, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    code = block_under("`transformers serve`")
    script = tmp_path / "serve_attached.py"
    script.write_text(code.replace("return racer.attach", "print('attached', flush=True)\n    return racer.attach"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "log").open("w+") as log:
        command = [sys.executable, str(script), "serve", str(folder), "--port", str(port)]
        command += ["--dtype", "float32", "--device", "cpu"]
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            _until_up(server, port, tmp_path / "log")
            question = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 20, "temperature": 0}
            asked = {"model": str(folder), "stream": False, **question}
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asked, timeout=120)
            assert reply.status_code == 200, reply.text
        finally:
            server.terminate()
            server.wait(30)
        assert "attached" in (tmp_path / "log").read_text()
    inputs = tokenizer.apply_chat_template(question["messages"], add_generation_prompt=True, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=20, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert reply.json()["choices"][0]["message"]["content"].strip() == text.strip()


def _until_up(server: Any, port: int, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_peft(model: Any, tokenizer: Any) -> None:
    pytest.importorskip("peft")
    attached = code_under("PEFT")["with_adapter"](model)
    for name, part in attached.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(part, std=0.5)
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    how = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0}
    ids = attached.generate(**inputs, **how)
    racer.detach(attached)
    assert attached.generate(**inputs, **how).tolist() == ids.tolist()
