"""Give a model its weights in few bits: those of the GGUF file that it comes from, or made from its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from racer.core.kept_layers import KeptEmbedding, KeptLinear
from racer.core.kept_weights import INT4, INT8, GroupedNumbers, KeptWeight, quantised
from racer.kernels.native.assembling import NotHere
from racer.kernels.native.few_bits import UNIT, Format
from racer.kernels.native.packed import packed_product
from racer.loading.gguf_blocks import TYPES, grouped

MADE = {"int8": INT8, "int4": INT4}
"""What plain weights can be made into."""
NEAR = 1e-6
"""Of the largest number of a weight, how far what was loaded may be from what the file says: the rounding of a product
and a sum."""


def obstacle() -> str:
    """Why weights cannot be multiplied in few bits on this machine; empty if they can."""
    try:
        packed_product(INT8)
    except NotHere as error:
        return str(error)
    return ""


def make(model: Any, choice: str) -> int:
    """Round a model's linear layers to ``choice`` of :data:`MADE`; how many there were.

    The embedding stays as it is, also where the last layer shares its weight.
    """
    kept, count = MADE[choice], 0
    for parent, name, layer in list(_layers(model, nn.Linear)):
        if layer.in_features % UNIT == 0:
            setattr(parent, name, KeptLinear(KeptWeight(quantised(layer.weight, kept)), layer.bias))
            count += 1
    return count


def keep(model: Any, reader: Any) -> int:
    """Exchange the weights of a model that was loaded from a GGUF file for the file's own; how many layers.

    :param reader: ``gguf.GGUFReader`` of the file.

    Only a weight that is what the file's tensor says, in the file's order of rows or in that of Llama's rotary
    embedding, is exchanged.
    """
    import gguf

    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.tensor_type.name in TYPES}
    names, config = _names_of(gguf, reader, model), model.config.get_text_config()
    paths = {module: path for path, module in model.named_modules()}
    counts = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    heads = {count for count in counts if count}
    shared: dict[int, KeptWeight] = {}
    count = 0
    for parent, name, layer in [*_layers(model, nn.Linear), *_layers(model, nn.Embedding)]:
        weight = layer.weight
        held = shared.get(id(weight))
        if held is None:
            for file_name in names.get(paths[layer], ()):
                tensor = tensors.get(file_name)
                whole = None if tensor is None else _kept_of(tensor, weight, heads)
                if whole is not None:
                    held = shared[id(weight)] = KeptWeight(whole)
                    break
        if held is None:
            continue
        setattr(parent, name, _kept_layer(layer, held))
        count += 1
    return count


def save(model: Any, file: Path) -> None:
    """Write what :func:`keep` gave a model, ready to be multiplied with."""
    from safetensors.numpy import save_file

    places: dict[KeptWeight, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, (KeptLinear, KeptEmbedding)):
            places.setdefault(module.held, []).append(path)
    arrays: dict[str, NDArray[Any]] = {}
    facts = []
    for index, (held, paths) in enumerate(places.items()):
        arrays |= {f"{index}.numbers": held.numbers.numpy(), f"{index}.scales": held.scales.numpy()}
        facts.append({"paths": paths, "kept": attrs.asdict(held.kept), "shape": [held.outputs, held.inputs]})
    save_file(arrays, file, {"kept": json.dumps(facts)})


def restore(model: Any, file: Path) -> None:
    """Give a model what :func:`save` wrote of its like."""
    from safetensors import safe_open

    with safe_open(file, "pt") as arrays:
        facts = json.loads(arrays.metadata()["kept"])
        for index, fact in enumerate(facts):
            parts = (arrays.get_tensor(f"{index}.{name}") for name in ("numbers", "scales"))
            held = KeptWeight.of(Format(**fact["kept"]), *fact["shape"], *parts)
            for path in fact["paths"]:
                layer = model.get_submodule(path)
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, _kept_layer(layer, held))


def _kept_layer(layer: Any, held: KeptWeight) -> nn.Module:
    kept = KeptLinear(held, layer.bias) if isinstance(layer, nn.Linear) else KeptEmbedding(held, layer.weight.dtype)
    return kept.eval()


def _kept_of(tensor: Any, weight: Tensor, heads: set[int]) -> GroupedNumbers | None:
    """A tensor's numbers, with its rows in the order that the weight has them; None if it is another weight."""
    whole = grouped(tensor.tensor_type.name, tensor.data.reshape(-1, tensor.data.shape[-1]))
    if whole is None or whole.numbers.shape != tuple(weight.shape) or weight.shape[1] % UNIT:
        return None
    said, held = whole.dequantised(), weight.detach().float().numpy()
    relative = 0.0 if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps  # as it was rounded
    absolute = NEAR * np.abs(said).max()
    for order in _orders(len(said), heads):
        expected = said[order]
        if (np.abs(held - expected) <= absolute + relative * np.abs(expected)).all():
            return whole.rows(order)
    return None


def _orders(rows: int, heads: set[int]) -> Iterator[Any]:
    """As in the file; and of queries and keys whose halves lie side by side in a GGUF of Llama's kind."""
    yield slice(None)
    for count in heads:
        if rows % (2 * count) == 0:
            yield _of_halves(rows, count)


def _of_halves(rows: int, heads: int) -> NDArray[np.int64]:
    places = np.arange(rows).reshape(heads, rows // heads // 2, 2)
    return places.swapaxes(1, 2).reshape(-1)


def _names_of(gguf: Any, reader: Any, model: Any) -> dict[str, tuple[str, ...]]:
    """What tensors may be called in the file that hold the weights of modules by their paths."""
    field = reader.fields["general.architecture"]
    said = bytes(field.parts[field.data[0]]).decode()
    arch = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == said), None)
    if arch is None:
        return {}
    config = model.config.get_text_config()
    table = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    names: dict[str, tuple[str, ...]] = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            found = table.get_name(path)
            names[path] = (f"{found}.weight",) if found else ()
            if path.endswith("lm_head"):
                names[path] += ("token_embd.weight",)
    return names


def _layers(model: Any, kind: type) -> Iterator[tuple[nn.Module, str, Any]]:
    """Modules of exactly this class, with who holds them under which name."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                yield parent, name, child
