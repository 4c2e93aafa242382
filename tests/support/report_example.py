"""The results of a bench run as they might be, for tests of its report."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

METHODS = ("none", "hf", "hf-prompt-lookup", "racer", "racer-paper@64", "logits", "suffix", "racer/typical")
GROUPS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag", "human_eval", "mgsm")
GAINS = {"none": 1.0, "hf": 0.97, "hf-prompt-lookup": 1.18, "logits": 1.31, "suffix": 1.22, "racer/typical": 1.71}


def figures(method: str, draw: random.Random, asked: int) -> dict[str, Any]:
    """What a method might have measured."""
    ours = not method.startswith("hf")
    gain = GAINS.get(method, 1.55) * (1 if method == "none" else draw.uniform(0.74, 1.3))
    mat = 1.0 if method in ("none", "hf") else 1 + 1.9 * (gain - 0.6)
    shares = [] if mat == 1 else [min(0.9, 0.3 * mat) * 0.7**depth for depth in range(draw.randint(6, 12))]
    drafted = 0 if mat == 1 else asked * 9000
    exact = method != "racer/typical"
    return {
        "questions": asked, "failures": 0, "new_tokens": asked * 241, "steps": int(asked * 241 / mat),
        "mean_accepted_tokens": mat, "mean_accepted_tokens_ci": [mat - 0.11, mat + 0.12] if mat > 1 else [1.0, 1.0],
        "tokens_per_second": 26.4 * gain, "tokens_per_second_median": 25.9 * gain,
        "tokens_per_second_ci": [26.4 * gain - 1.3, 26.4 * gain + 1.4],
        "speedup_vs_none": gain, "speedup_vs_none_ci": [gain - 0.06, gain + 0.07],
        "speedup_vs_none_median": gain - 0.02, "speedup_vs_hf": gain / 0.97,
        "speedup_vs_hf_ci": [gain - 0.03, gain + 0.1], "speedup_vs_hf_median": gain + 0.01,
        "identical_rate": 1.0 if method == "none" else 0.975 if exact else 0.4375,
        "divergences": 0 if method == "none" else 1 if exact else 18,
        "divergence_gap_median": None if method == "none" else 0.0312,
        "divergence_gap_max": None if method == "none" else 0.125,
        "nodes_per_step": 1.0 if mat == 1 else 23.7, "drafted_nodes": drafted, "wasted_nodes": int(drafted * 0.94),
        "first_token_seconds": 0.1824, "peak_memory_mib": 143.7 if ours else None,
        "milliseconds": {
            "prefill": 171.3, "draft": 0.02 if mat == 1 else 1.53, "forward": 36.2 + 9 * mat, "verify": 2.65,
            "commit": 0.11, "observe": 0.35, "host": 0.42,
        } if ours else None,
        "acceptance_by_depth": shares,
        "score": {"right": asked // 2, "asked": asked} if asked else None,
    }  # fmt: skip


def reliability(draw: random.Random) -> dict[str, Any]:
    rises = [
        {"low": n / 10, "high": (n + 1) / 10, "count": int(9000 * 0.6**n) + 3, "predicted": n / 10 + 0.05,
         "accepted": min(1.0, max(0.0, n / 10 + draw.uniform(-0.08, 0.1)))}
        for n in range(10)
    ]  # fmt: skip
    return {"bins": rises, "count": sum(held["count"] for held in rises), "ece": draw.uniform(0.01, 0.08)}


def example(methods: tuple[str, ...] = METHODS, groups: tuple[str, ...] = GROUPS, seed: int = 3) -> dict[str, Any]:
    """The results of a run as they might be."""
    draw = random.Random(seed)
    entries: dict[str, Any] = {}
    for method in methods:
        sizes = [1] if method in ("none", "hf") else [1, 2, 4, 8, 16, 24, 32, 48, 64]
        slope = draw.uniform(0.5, 0.8)
        curve = [{"nodes": n, "milliseconds": 38.0 + slope * n, "steps": 4000 // n} for n in sizes]
        scored = method.startswith(("racer", "logits"))
        entries[method] = {
            "overall": figures(method, draw, 5 * len(groups)),
            "groups": {group: figures(method, draw, 5) for group in groups},
            "cost_curve": [] if method.startswith("hf") else curve,
            "reliability": {"path": reliability(draw), "child": reliability(draw)} if scored else None,
        }
    setup = {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct", "dtype": "bfloat16", "device": "cpu",
        "device_name": "AMD EPYC 9R14 96-Core Processor", "machine": "AMD EPYC 9R14 96-Core Processor", "cores": 2,
        "threads": 2, "platform": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.7", "torch": "2.13.0+cpu",
        "transformers": "5.23.0", "racer": "0.1.0", "commit": "b4d8bd7+", "date": "2026-11-30T14:02:11+00:00",
        "command": "racer bench --methods racer,racer-paper@64,logits,suffix,racer/typical --limit 5 --output runs/a",
        "questions": [{"source": "spec-bench", "count": 30}, {"source": "mgsm-zh", "count": 10}],
        "digest": "5e0f6d0c2b7a4a11", "groups": dict.fromkeys(groups, 5), "methods": list(methods),
        "max_new_tokens": 256, "limit": 5, "budget": "auto", "seed": 0, "temperature": 0.0, "top_p": 1.0,
        "batch_size": 1, "cold": False, "compile": "auto", "pack": False, "score": True, "resumed": 1, "complete": True,
        "trials_done": 320, "trials_total": 320,
    }  # fmt: skip
    failures = [
        {"method": methods[-1], "group": groups[0], "question_id": 81 + n, "turn": 1, "error": "ConfigError: too long"}
        for n in range(23)
    ]
    return {"setup": setup, "methods": entries, "failures": failures}


def holed(data: Any, holes: float, draw: random.Random) -> Any:
    """The same with figures not measured."""
    if isinstance(data, dict):
        return {name: holed(value, holes, draw) for name, value in data.items()}
    if isinstance(data, list) and not any(isinstance(value, str) for value in data):
        return [holed(value, holes, draw) for value in data] if draw.random() >= holes else None
    return None if draw.random() < holes and not isinstance(data, str) else data


names = st.text(min_size=1, max_size=40)
runs = st.builds(
    lambda methods, groups, holes, seed: holed(
        example(tuple(methods), tuple(groups), seed), holes, random.Random(seed)
    ),
    st.lists(names | st.sampled_from(METHODS), min_size=1, max_size=10, unique=True),
    st.lists(names | st.sampled_from(GROUPS), min_size=1, max_size=10, unique=True),
    st.sampled_from([0, 0.05, 0.5, 0.95]),
    st.integers(0, 1000),
)
