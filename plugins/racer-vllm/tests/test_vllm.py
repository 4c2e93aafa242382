"""A proposer in vLLM itself, where that is installed: texts are those without drafts, whatever befalls requests."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

vllm = pytest.importorskip("vllm", reason="vLLM is not installed; see the README on how it was tried")

VOCAB = 97
TIGHT = {
    "enable_prefix_caching": True,
    "enable_chunked_prefill": True,
    "max_num_batched_tokens": 48,
    "max_num_seqs": 6,
    "num_gpu_blocks_override": 10,  # of 128 tokens: too few for six texts
    "max_model_len": 640,
}


ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RACER_VLLM_LEAST_SCORE": "0",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that repeats itself soon."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).float().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Without drafts, and with; in this process."""
    if "llvmlite" in sys.modules:  # vLLM 0.32 looks through all modules for its kernels, and stumbles over this one's
        pytest.skip("numba is loaded, after which vLLM makes no engine on a CPU: run this file alone")
    speculative = {"method": "custom_class", "model": "racer_vllm.Proposer", "num_speculative_tokens": 6}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        plain, drafting = (
            vllm.LLM(
                str(folder),
                dtype="float32",
                enforce_eager=True,
                skip_tokenizer_init=True,
                disable_log_stats=False,
                speculative_config=settings,
                **TIGHT,
            )
            for settings in (None, speculative)
        )
        yield plain, drafting


def _prompts() -> list[dict[str, list[int]]]:
    """Some begin alike, some are long, two are the same."""
    rng = random.Random(0)
    start = [rng.randrange(3, VOCAB) for _ in range(300)]
    ends = [[rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, 40))] for _ in range(10)]
    prompts = [start + end for end in ends] + [ends[0], ends[1], ends[0]]
    return [{"prompt_token_ids": prompt} for prompt in prompts]


def _texts(llm: Any, **sampling: Any) -> list[list[int]]:
    settings = vllm.SamplingParams(
        **{"temperature": 0.0, "max_tokens": 150, "ignore_eos": True, **sampling}, detokenize=False
    )
    outputs = llm.generate(_prompts(), settings, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def _counter(llm: Any, name: str) -> int:
    return sum(int(metric.value) for metric in llm.get_metrics() if metric.name == f"vllm:{name}")


def test_texts_are_those_without_drafts(engines: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Prompts in pieces, shared prefixes, and too few blocks, so that requests are preempted."""
    plain, drafting = engines
    with caplog.at_level(logging.WARNING):
        texts = _texts(plain)
        assert _texts(drafting) == texts
    assert _counter(drafting, "num_preemptions") > 0
    assert _counter(drafting, "prefix_cache_hits") > 0
    assert _counter(drafting, "spec_decode_num_accepted_tokens") > 0.2 * sum(map(len, texts))
    assert "RACER failed" not in caplog.text


def test_sampling_and_log_probabilities_of_prompts(engines: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        texts = _texts(engines[1], temperature=0.8, top_p=0.9, logprobs=2, prompt_logprobs=1)
    assert {len(text) for text in texts} == {150}
    assert "RACER failed" not in caplog.text


def test_a_proposer_that_fails_costs_no_request(
    engines: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last test: it drafts no more."""
    plain, drafting = engines
    texts = _texts(plain)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("racer.drafting.Session.step", broken)
    with caplog.at_level(logging.WARNING):
        assert _texts(drafting) == texts
    assert "nothing is drafted any more" in caplog.text
