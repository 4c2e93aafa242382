"""The sweep over transformers, on twelve classes in every run; all of them are in docs/compatibility.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from transformers import LlamaForCausalLM, Qwen3MoeForCausalLM

import racer
from racer.core.tiny_models import tiny_model
from racer.testing.compat import Finding, check
from racer.testing.compat.__main__ import main, names
from racer.testing.compat.check import ALONE_AND_BOTH, SEED
from racer.testing.compat.near_tie import CLOSE, near_tie, scores_at
from racer.testing.compat.prompts import Prompts
from racer.testing.compat.report import page
from support.versions import recent

TWELVE = {
    "LlamaForCausalLM": "tree",
    "Gemma3ForCausalLM": "tree",
    "Qwen3MoeForCausalLM": "tree",
    "Llama4ForCausalLM": "tree",
    "Phi3ForCausalLM": "tree",
    "OPTForCausalLM": "tree",
    "GPT2LMHeadModel": "tree",
    "Qwen3NextForCausalLM": "chain",
    "FalconH1ForCausalLM": "chain",
    "Lfm2ForCausalLM": "chain",
    "BloomForCausalLM": "chain",
    "MambaForCausalLM": "plain",
}
NEW = ("FalconH1ForCausalLM", "Lfm2ForCausalLM")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=recent("it starts anew after a state")) if name in NEW else name for name in TWELVE],
)
def test_a_class_is_decoded_rightly(name: str) -> None:
    finding = check(getattr(transformers, name))
    assert finding.way == TWELVE[name], finding


def test_a_wrong_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree whose nodes see their siblings is noticed, even where the trial is blind to it."""
    monkeypatch.setattr("racer.core.trial.fault_of", lambda *_, **__: "")
    monkeypatch.setattr(
        "racer.step.draft_tree.DraftTree.ancestors",
        property(lambda tree: tree.tokens[:, :, None].eq(tree.tokens[:, :, None]).expand(-1, -1, tree.width)),
    )
    assert check(LlamaForCausalLM).way == "WRONG"


@pytest.mark.parametrize("rows", ALONE_AND_BOTH)
def test_how_close_a_sampled_call_was_is_told_with_its_noise(rows: slice) -> None:
    """Each token of a sampled text leads by it; by its logits alone it does not."""
    model = tiny_model(LlamaForCausalLM)
    prompts = Prompts.of(model)
    config = racer.DecodeConfig(drafter="none", seed=SEED)
    texts = racer.generate(model, **prompts.given(rows), max_new_tokens=8, do_sample=True, top_k=0, config=config)
    for row in range(len(texts)):
        drawn = texts[row, -8:].tolist()
        places = range(texts.shape[1] - 8, texts.shape[1])
        best = {
            seed: [int(scores_at(model, prompts, rows, texts, row, place, seed)[0].argmax()) for place in places]
            for seed in (SEED, None)
        }
        assert best[SEED] == drawn
        assert best[None] != drawn


@pytest.mark.parametrize("tied", [True, False])
def test_experts_that_are_as_good_as_each_other_are_a_near_tie(tied: bool) -> None:
    """Which of them is taken is rounding's affair, and the tokens that follow from each are far apart."""
    model = tiny_model(Qwen3MoeForCausalLM)
    prompts, rows = Prompts.of(model), ALONE_AND_BOTH[0]
    if tied:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.gate.weight.copy_(layer.mlp.gate.weight[:1].expand_as(layer.mlp.gate.weight))
    text = model.generate(**prompts.given(rows), max_new_tokens=1, do_sample=False)
    scores, deviation = scores_at(model, prompts, rows, text, 0, text.shape[1] - 1, None)
    best = scores.sort(descending=True)
    apart = best.values[:-1] - best.values[1:]
    close = int(apart.where(apart > 2 * CLOSE * deviation, torch.inf).argmin())
    one, other = text.clone(), text.clone()
    one[0, -1], other[0, -1] = best.indices[close], best.indices[close + 1]
    assert near_tie(model, prompts, rows, one, other) == tied


def test_the_page_counts() -> None:
    text = page([Finding("LlamaForCausalLM", "tree"), Finding("BambaForCausalLM", "chain", "it has | states")])
    assert "2 classes. 1 tree, 1 chain, 0 plain, 0 WRONG" in text
    assert "| BambaForCausalLM | chain | it has / states |" in text
    assert "2 of 37 decode with trees or chains" in text


def test_the_command_sweeps_what_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--only", "OPTForCausalLM", "--output", str(tmp_path / "page.md")])
    assert done.exit_code == 0, done.output
    assert "| OPTForCausalLM | tree |" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert CliRunner().invoke(main, ["--only", "Nonesuch"]).exit_code == 2


def test_all_causal_classes_are_named() -> None:
    assert {"LlamaForCausalLM", "Qwen3_5ForCausalLM", "GPT2LMHeadModel"} <= set(names())
    assert len(names()) > 150
