"""Weights in other forms than one dense tensor each: quantised, on disk, switched, spread over processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import racer
from racer import DecodeConfig
from racer.hf.plain import PlainDecodingWarning
from racer.testing.trees import HostileDrafter
from support.loud_llama import IDS, MASK, VOCAB, llama

HOW: dict[str, Any] = {
    "input_ids": IDS,
    "attention_mask": MASK,
    "max_new_tokens": 24,
    "do_sample": False,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, saved."""
    place = tmp_path_factory.mktemp("model")
    llama().save_pretrained(place)
    return place


def drafted(model: Any) -> torch.Tensor:
    """The text, decoded with trees: equal to transformers', whatever is drafted."""
    plain: torch.Tensor = model.generate(**HOW)
    for drafter in ("racer", HostileDrafter(3, VOCAB)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", PlainDecodingWarning)
            got = racer.generate(model, **HOW, config=DecodeConfig(drafter=drafter, budget=10))
        assert torch.equal(got, plain)
    return plain


@pytest.mark.filterwarnings("ignore")  # of torchao's own
@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_quantised_by_torchao(kind: str) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="pip install torchao")
    model = llama()
    before = drafted(model)
    quantization.quantize_(model, getattr(quantization, kind)())
    assert not torch.equal(drafted(model), before)  # it is another model now


@pytest.mark.filterwarnings("ignore")  # of bitsandbytes' own
@pytest.mark.parametrize("how", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_quantised_by_bitsandbytes(how: dict[str, Any], folder: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**how, bnb_4bit_compute_dtype=torch.float32)
    drafted(
        AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu", dtype=torch.float32)
    )


@pytest.mark.filterwarnings("ignore")  # of accelerate's own
def test_layers_on_disk(folder: Path, tmp_path: Path) -> None:
    places = {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(4)}
    places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    assert {weight.device.type for weight in model.parameters()} == {"cpu", "meta"}
    assert torch.equal(drafted(model), llama().generate(**HOW))


@pytest.mark.slow
def test_single_layers_that_are_compiled() -> None:
    model = llama()
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    model.model.layers[2].mlp.compile(backend="eager")
    assert torch.equal(drafted(model), llama().generate(**HOW))


@pytest.mark.filterwarnings("ignore")  # of PEFT's own
def test_adapters_that_are_switched_joined_merged_and_put_away() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    first = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    second = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["v_proj"], init_lora_weights=False)
    model: Any = get_peft_model(llama(), first, adapter_name="first")
    model.add_adapter("second", second)
    model.eval()
    texts = {}
    for name in ("first", "second", "first"):
        model.set_adapter(name)
        texts[name] = drafted(model)
    model.base_model.set_adapter(["first", "second"])
    texts["both"] = drafted(model)
    with model.disable_adapter():
        texts["none"] = drafted(model)
    model.set_adapter("first")
    model.merge_adapter()
    assert torch.equal(drafted(model), texts["first"])
    model.unmerge_adapter()
    drafted(model)
    assert torch.equal(texts["none"], llama().generate(**HOW))
    assert len({tuple(text.flatten().tolist()) for text in texts.values()}) == 4
    with pytest.warns(PlainDecodingWarning, match="adapters of their own"):
        got = racer.generate(model, **HOW, adapter_names=["first", "second"])
    assert torch.equal(got, model.generate(**HOW, adapter_names=["first", "second"]))


SPREAD = """
    import sys, warnings
    import torch
    from transformers import AutoModelForCausalLM
    import racer

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", dtype=torch.float32).eval()
    ids = torch.randint(3, 120, (2, 12), generator=torch.Generator().manual_seed(0))
    how = {"input_ids": ids, "max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(**how)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        got = racer.generate(model, **how)
    assert any("spread over processes" in str(item.message) for item in heard), racer.examine(model)
    assert torch.equal(got, plain)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    print("equal", flush=True)
"""


@pytest.mark.slow
def test_weights_that_are_spread_over_processes(folder: Path, tmp_path: Path) -> None:
    """Passes of different sizes in two processes would end both."""
    script = tmp_path / "spread.py"
    script.write_text(textwrap.dedent(SPREAD), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[:6000]
    assert done.stdout.count("equal") == 2
