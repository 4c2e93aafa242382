"""The table of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import transformers

from racer.testing.compat.check import Finding

POPULAR = (
    *("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "Qwen3Next", "Qwen3_5", "Gemma"),
    *("Gemma2", "Gemma3", "Gemma3n", "Gemma4", "Phi", "Phi3", "Llama4", "DeepseekV3", "GptOss", "Glm4"),
    *("Glm4Moe", "Granite", "GraniteMoeHybrid", "NemotronH", "Lfm2", "Bamba", "Jamba", "FalconH1", "Falcon"),
    *("SmolLM3", "Olmo2", "Olmo3", "Cohere2", "Starcoder2", "GPTNeoX", "GPT2", "OPT"),
)
"""The 37 families that people use most, by the beginnings of their classes' names."""
HEADLINE = ("tree", "chain", "plain", "WRONG", "not buildable")


def page(findings: Sequence[Finding]) -> str:
    """docs/compatibility.md."""
    ways = Counter(finding.way for finding in findings)
    today = datetime.now(tz=UTC).date().isoformat()
    lines = [
        "# Which models decode how",
        "",
        "Written by `python -m racer.testing.compat`: of every class a tiny random model is built from its "
        "configuration (windows of 8, prompts of 20 tokens) and decoded in float32 with drafts that hide the right "
        "path among wrong ones, alone and in a left-padded batch of two, the prompt in pieces, greedily and sampled; "
        "every text is compared with transformers' own, or, sampled, with the text without drafts. Models with an "
        "encoder read made-up text or speech.",
        "",
        f"transformers {transformers.__version__}, {today}: {len(findings)} classes. "
        + ", ".join(f"{ways[way]} {way}" for way in HEADLINE)
        + ".",
        "",
        "- **tree**: drafts are trees, scored in one forward pass.",
        "- **chain**: the best path of each tree is scored, in transformers' own cache: the model has states that take "
        "no tree, or attends in a way that no mask can express.",
        "- **plain**: transformers decodes, with one warning; the same text, not faster.",
        "- **not buildable**: the sweep could not make a tiny model from the configuration; nothing is said about it.",
        "",
        "## The families that people use most",
        "",
        *_popular(findings),
        "",
        "## All classes",
        "",
        "| class | way | why not a better one |",
        "|---|---|---|",
        *(_row(finding) for finding in sorted(findings, key=lambda one: one.name.lower())),
        "",
    ]
    return "\n".join(lines)


def _popular(findings: Sequence[Finding]) -> list[str]:
    by_name = {finding.name: finding for finding in findings}
    rows, good = [], 0
    for family in POPULAR:
        names = [family + end for end in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")]
        found = next((by_name[name] for name in names if name in by_name), None)
        way = "not swept" if found is None else found.way
        good += way in ("tree", "chain")
        rows.append(f"| {family} | {way} | {'' if found is None else _clean(found.reason)} |")
    head = [f"{good} of {len(POPULAR)} decode with trees or chains.", "", "| family | way | why not a better one |"]
    return [*head, "|---|---|---|", *rows]


def _row(finding: Finding) -> str:
    batches = f"; left-padded rows plainly: {_clean(finding.batches)}" if finding.batches else ""
    return f"| {finding.name} | {finding.way} | {_clean(finding.reason)}{batches} |"


def _clean(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")[:240]
