from __future__ import annotations

import json
from pathlib import Path

import torch
from click.testing import CliRunner
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import racer
from racer.cli.app import app
from support.chain_models import chain_model
from support.tiny_folder import build_folder


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_each_way_is_told_with_its_reason() -> None:
    found = racer.examine(llama())
    assert (found.way, found.reason, str(found)) == ("tree", "", "LlamaForCausalLM: tree")
    assert found.vocab_size == 50
    found = racer.examine(chain_model("qwen3.5"))
    assert found.way == "chain"
    assert "linear_attention" in found.reason
    assert str(found).startswith("Qwen3_5ForCausalLM: chain (it has layers of type linear_attention")
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    found = racer.examine(T5ForConditionalGeneration(t5).eval())
    assert found.way == "chain"
    assert "it has an encoder" in found.reason
    mamba = MambaConfig(vocab_size=50, hidden_size=16, state_size=8, num_hidden_layers=2, time_step_rank=4)
    found = racer.examine(MambaForCausalLM(mamba).eval())
    assert found.way == "plain"
    assert "nor by chains" in found.reason


def test_compiled_models_are_looked_into() -> None:
    assert racer.examine(torch.compile(llama(), backend="eager")).way == "tree"


def test_the_command_tells_it(tmp_path: Path) -> None:
    folder = build_folder(tmp_path / "model")
    done = CliRunner().invoke(app, ["plugins", "--model", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"]["way"] == "tree"
    assert CliRunner().invoke(app, ["plugins", "--model", str(folder)]).stdout == "LlamaForCausalLM: tree\n"
