"""The installed plugin in the decode loop: found by name, and never a different token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import racer
from racer.discovery import plugins
from racer.errors import ConfigError
from racer.guard import PluginWarning
from racer_datastore import Datastore, DatastoreError, write_index
from racer_datastore.plugin import VARIABLE

INPUTS: dict[str, Any] = {"input_ids": torch.tensor([[5, 9, 33, 12]]), "max_new_tokens": 40, "do_sample": False}


@pytest.fixture
def path(model: Any, tmp_path: Path) -> Path:
    """An index of what the model will say, and of what it will not."""
    torch.manual_seed(2)
    said = model.generate(**INPUTS)[0].tolist()
    noise = torch.randint(0, 61, (20, 50)).tolist()
    write_index(tmp_path / "x.idx", [said, *noise], bytes(32))
    return tmp_path / "x.idx"


def test_the_entry_point_offers_it_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = plugins.resolve("drafter", "datastore")
    assert offer.origin.startswith("racer-datastore ")
    monkeypatch.setenv(VARIABLE, str(path))
    assert isinstance(offer.factory(), Datastore)


def test_without_a_file_the_error_names_the_mend(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"racer-datastore build .*{VARIABLE}=FILE"):
        racer.Decoder(model, racer.DecodeConfig(drafter="datastore"))
    monkeypatch.setenv(VARIABLE, "missing.idx")
    with pytest.raises(DatastoreError, match=r"cannot read index missing\.idx"):
        racer.Decoder(model, racer.DecodeConfig(drafter="datastore"))


@pytest.mark.parametrize("budget", [1, 5, 64])
def test_a_batch_with_left_padding_is_decoded_as_by_generate(
    model: Any, path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(path))
    ids = torch.tensor([[0, 0, 5, 9, 33, 12], [3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 17]])
    inputs = {**INPUTS, "input_ids": ids, "attention_mask": (ids > 0).long()}
    out = racer.generate(model, config=racer.DecodeConfig(drafter="datastore", budget=budget), **inputs)
    assert out.tolist() == model.generate(**inputs).tolist()


def test_drafts_are_accepted(model: Any, path: Path) -> None:
    decoder = racer.Decoder(model, racer.DecodeConfig(drafter=Datastore(path), budget=16))
    out = decoder.generate(return_dict_in_generate=True, **INPUTS)
    assert out.sequences.tolist() == model.generate(**INPUTS).tolist()
    assert out.racer_stats.steps < out.racer_stats.new_tokens / 2


def test_sampling_is_unchanged_by_the_drafter(model: Any, path: Path) -> None:
    inputs = {**INPUTS, "do_sample": True, "temperature": 0.5}
    outputs = [
        racer.generate(model, config=racer.DecodeConfig(drafter=drafter, seed=3), **inputs).tolist()
        for drafter in ("none", Datastore(path))
    ]
    assert outputs[0] == outputs[1]


def test_another_models_index_is_left_out_with_one_warning(model: Any, tmp_path: Path) -> None:
    write_index(tmp_path / "x.idx", [[5, 9, 33, 12, 61]], bytes(32))
    config = racer.DecodeConfig(drafter=Datastore(tmp_path / "x.idx"))
    with pytest.warns(PluginWarning, match="token id 61, the model has 61 tokens") as warned:
        out = racer.generate(model, config=config, **INPUTS)
    assert len(warned) == 1
    assert out.tolist() == model.generate(**INPUTS).tolist()
