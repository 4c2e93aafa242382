"""What a forward pass on a CPU spends on each kind of operation, and how fast its products read the weights.

Layers run from recordings of themselves (racer/core/recording.py): lists of machine code. Here each entry of the lists
of all layers is run by itself, layer after layer, so that weights come from where they come from in a step; a kind's
time is the sum of its entries' medians. The last layer, over the vocabulary, is timed by itself.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections import defaultdict
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from racer.core.fast_linear import twin_of_layer
from racer.core.few_rows import Looks, few_rows
from racer.core.kept_layers import KeptLinear
from racer.core.kv_cache import TreeCache
from racer.core.layer_program import MOST, Program
from racer.core.model_runner import ModelRunner
from racer.core.packed_weights import pack
from racer.core.support import probe
from racer.kernels.native.few_bits import LANES, UNIT
from racer.step.draft_tree import DraftTree

KINDS = dict.fromkeys(("dense", "packed", "tiles"), "linear")
KINDS |= {"attend": "attention", "norm": "norms", "rotate": "rotary", "store": "cache", "gate": "gates", "add": "sums"}
"""By the first word of the names of machine code."""
OPERATIONS = ("linear", "attention", "norms", "rotary", "cache", "gates", "sums", "head")
ROUNDS = 12
PASSES = 3
"""In which recordings are made, before anything is timed."""


@attrs.frozen
class Product:
    """One shape of weights, and what a pass's products with all weights of this shape take."""

    shape: tuple[int, int]
    layers: int
    bytes: int
    milliseconds: float

    @property
    def gigabytes_per_second(self) -> float:
        return self.bytes / self.milliseconds / 1e6


@attrs.frozen
class Operations:
    """What a pass over so many nodes consists of."""

    nodes: int
    milliseconds: dict[str, float]
    """By kind."""
    products: list[Product]


def operations(model: Any, nodes: int, context: int) -> Operations | None:
    """Of a tree behind ``context`` tokens; None where layers are not recorded: on a GPU, of many nodes, or as
    somebody's code is among them."""
    recorded = _recorded(model, nodes, context) if nodes <= MOST and model.device.type == "cpu" else None
    if recorded is None or not recorded.programs:
        return None
    kinds: dict[str, float] = defaultdict(float)
    shapes: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for program, spent in zip(recorded.programs, _timed(recorded.programs), strict=True):
        weights = [held for _, name, held, _ in program.weights if name == "numbers" or held.dim() == 2]
        for name, milliseconds in zip(program.names, spent, strict=True):
            kind = KINDS[name.split("_")[0]]
            kinds[kind] += milliseconds
            if kind == "linear":
                weight = weights.pop(0)
                shapes[_shape(weight)].append((weight.nbytes, milliseconds))
    head = _head(model, nodes)
    kinds["head"] = head.milliseconds
    products = [
        Product(shape, len(found), sum(size for size, _ in found), sum(spent for _, spent in found))
        for shape, found in sorted(shapes.items())
    ]
    return Operations(nodes, {kind: kinds[kind] for kind in OPERATIONS}, [*products, head])


@attrs.frozen
class _Recorded:
    """A pass's layers, as the last of a few passes left them."""

    programs: list[Program]
    runner: ModelRunner
    cache: TreeCache
    """Whose memory the programs' lists name."""


@torch.no_grad()
def _recorded(model: Any, nodes: int, context: int) -> _Recorded | None:
    plan = probe(model).plan
    if plan is None:
        return None
    runner = ModelRunner(model, plan, pack(model, "auto"))
    cache = runner.open([0], context + nodes)
    list(runner.prefill(torch.randint(model.config.vocab_size, (1, context)), cache, context, 1))
    parents = torch.arange(-1, nodes - 1)[None] // 2
    parents[:, 0] = -1
    for _ in range(PASSES):
        tree = DraftTree(torch.randint(model.config.vocab_size, (1, nodes)), parents, torch.tensor([nodes]))
        runner.forward(tree, cache, context + nodes)
    kept = runner._stand_in._programs
    made = kept.made.items() if kept is not None else ()
    own = [program for (_, kind), program in made if program is not None and kind[0] == (nodes == 1)]
    return _Recorded(own, runner, cache)


def _timed(programs: list[Program]) -> list[list[float]]:
    """Median milliseconds of each entry of each list."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    entries = [
        [(call(table[2 * index]), table[2 * index + 1]) for index in range(len(program.names))]
        for program in programs
        for table in (program.table,)
    ]
    spent: list[list[list[float]]] = [[[] for _ in program.names] for program in programs]
    for _ in range(ROUNDS):
        for of_program, times in zip(entries, spent, strict=True):
            for (code, arguments), own in zip(of_program, times, strict=True):
                start = time.perf_counter()
                code(arguments)
                own.append(time.perf_counter() - start)
    return [[statistics.median(own) * 1e3 for own in times] for times in spent]


@torch.no_grad()
def _head(model: Any, nodes: int) -> Product:
    head = model.get_output_embeddings()
    ways = few_rows(model)
    layer = head if isinstance(head, KeptLinear) or ways is None else twin_of_layer(ways, None, Looks(), head) or head
    rows = torch.randn(1, nodes, head.in_features, dtype=model.dtype)
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        layer(rows)
        spent.append(time.perf_counter() - start)
    return Product((head.out_features, head.in_features), 1, weight_bytes(head), statistics.median(spent) * 1e3)


def _shape(weight: Tensor) -> tuple[int, int]:
    """``(out, in)`` of a weight, or of numbers in few bits."""
    packed = weight.dim() == 3
    return (weight.shape[0] * LANES, weight.shape[1] * UNIT) if packed else (weight.shape[0], weight.shape[1])


def weight_bytes(module: nn.Module) -> int:
    """Of the matrix that a layer multiplies with; 0 of what does not."""
    if isinstance(module, KeptLinear):
        return module.held.nbytes
    return module.weight.nbytes if isinstance(module, nn.Linear) else 0
