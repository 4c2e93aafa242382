"""Loading by name: folders, what is missing, and the embedded model's way into the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from racer.errors import ConfigError, ModelNotFound
from racer.loading import models, sources
from support.tiny_folder import SENTENCES, TEMPLATE

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
    assert sources.find(str(tmp_path)) == sources.Source(str(tmp_path), gguf="one.gguf", blocks=tmp_path / "one.gguf")
    (tmp_path / "two.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"name one: one\.gguf, two\.gguf"):
        sources.find(str(tmp_path))
    assert sources.find(str(tmp_path / "two.gguf")).gguf == "two.gguf"


def test_a_broken_gguf(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no such thing")
    with pytest.raises(ModelNotFound, match="cannot load"):
        models.load(str(tmp_path / "bad.gguf"))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFound, match="is not a model"):
        sources.find(str(tmp_path / "notes.txt"))


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
