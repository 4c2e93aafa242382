"""Products with few rows are those of the layer, whichever way is fastest."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from racer.core import fast_linear, few_rows, model_runner
from racer.core.fast_linear import FastLinear, twin_of_layer
from racer.core.few_rows import FewRows, Looks
from racer.core.few_rows import few_rows as ways_of
from racer.core.model_runner import ModelRunner
from racer.core.packed_weights import ROWS
from racer.core.products import Product, Weight, as_it_lies, by_packed, by_torch, in_tiles, widened
from racer.core.support import probe
from racer.kernels.native.assembling import NotHere
from racer.kernels.native.tiled_products import tiles_here
from racer.testing import toy_model
from support.tiny_models import tiny
from support.ways import take

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """All products read weights as they lie, by their addresses."""
    take(monkeypatch, as_it_lies)


def twin_of(layer: nn.Module, looks: Looks | None = None) -> Any:
    return twin_of_layer(FewRows(), None, looks or Looks(), layer)


def weight_of(layer: nn.Linear, *, packed: bool = False) -> Weight:
    copy = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS) if packed else None
    return Weight(layer.weight, layer.bias, copy)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("way", few_rows.WAYS, ids=lambda way: way.__name__)
@torch.no_grad()
def test_each_way_gives_the_product(way: Product, dtype: torch.dtype, bias: bool) -> None:
    if way is in_tiles and not (dtype is torch.bfloat16 and tiles_here()):
        pytest.skip("needs tiles, which are for bf16")
    layer = nn.Linear(32, 48, bias=bias, dtype=dtype)
    weight = weight_of(layer, packed=way is by_packed)
    for rows in (torch.randn(7, 32), torch.randn(2, 3, 32), torch.randn(1, 32), torch.randn(32, 5).T):
        given = rows.to(dtype)
        got = way(given, weight)
        assert got.is_contiguous()
        torch.testing.assert_close(got, layer(given), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("count", [64, 65, 128, 131, 300])
@pytest.mark.parametrize("way", [as_it_lies, widened, in_tiles], ids=lambda way: way.__name__)
@torch.no_grad()
def test_many_rows_have_the_same_product(way: Product, count: int) -> None:
    if way is in_tiles and not tiles_here():
        pytest.skip("needs tiles")
    layer, rows = nn.Linear(64, 48, dtype=torch.bfloat16), torch.randn(count, 64).bfloat16()
    wide = torch.nn.functional.linear(rows.float(), layer.weight.float(), layer.bias.float())
    torch.testing.assert_close(way(rows, weight_of(layer)).float(), wide, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("fails", [False, True])
@torch.no_grad()
def test_a_prompts_slow_products_go_another_way(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by the model itself, if that fails."""
    model = copy.deepcopy(tiny("llama")).to(torch.bfloat16)
    monkeypatch.setattr(model_runner, "many_rows", lambda dtype: dtype is torch.bfloat16)
    monkeypatch.setattr(few_rows, "many_rows", lambda dtype: dtype is torch.bfloat16)
    monkeypatch.setattr(fast_linear, "many_rows", lambda dtype: dtype is torch.bfloat16)
    counts: list[int] = []
    own = FewRows.product

    def product(self: FewRows, rows: torch.Tensor, count: int, *rest: Any) -> torch.Tensor:
        counts.append(count)
        if fails:
            raise RuntimeError("no such product")
        return own(self, rows, count, *rest)

    monkeypatch.setattr(FewRows, "product", product)
    plan = probe(model).plan
    assert plan is not None
    runner, ids = ModelRunner(model, plan), torch.arange(97)[None] % 31
    counts.clear()
    (piece,) = runner.prefill(ids, runner.open([0], 128), 128, 97)
    runner.close()
    assert 97 in counts
    whole = model(ids).logits
    if fails:
        assert torch.equal(piece.logits, whole)
    else:
        torch.testing.assert_close(piece.logits, whole, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("inputs", [24, 32])
def test_ways_are_timed_until_one_is_known_and_every_product_is_right(inputs: int, dtype: torch.dtype) -> None:
    layer, looks = nn.Linear(inputs, 40, dtype=dtype), Looks()
    twin = twin_of(layer, looks)
    assert isinstance(twin, FastLinear)
    with torch.no_grad():
        for _ in range(len(few_rows.WAYS) * (few_rows.ROUNDS + 1)):
            for shape in ((1, 5), (2, 3), (1, 1), (3,), (90,)):
                rows = torch.randn(*shape, inputs, dtype=dtype)
                torch.testing.assert_close(twin(rows), layer(rows), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        timed = looks.count
        twin(torch.randn(1, 5, inputs, dtype=dtype))
    assert 0 < timed == looks.count


@pytest.mark.parametrize("error", [RuntimeError, NotHere])
def test_a_way_that_is_not_to_be_had_is_not_taken(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refused(*_: Any) -> Any:
        asked.append(1)
        raise error("no kernel")

    monkeypatch.setattr(few_rows, "WAYS", (refused, by_torch))
    ways, looks, layer = FewRows(), Looks(), nn.Linear(24, 40)
    with torch.no_grad():
        for _ in range(20):
            rows = torch.randn(6, 24)
            torch.testing.assert_close(ways.product(rows, 6, weight_of(layer), looks), layer(rows))
    assert list(ways._fastest.values()) == [by_torch]
    assert len(asked) == 1


def test_models_of_other_types_or_elsewhere_are_left_alone() -> None:
    assert isinstance(ways_of(toy_model(50).bfloat16()), FewRows)
    assert ways_of(toy_model(50).half()) is None
    assert ways_of(toy_model(50).double()) is None
    assert ways_of(toy_model(50).to("meta")) is None


def test_what_autocast_or_gradients_ask_for_is_the_layers_own() -> None:
    layer = nn.Linear(24, 40)
    twin, rows = twin_of(layer), torch.randn(5, 24)
    assert twin(rows).requires_grad
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert twin(rows).dtype == torch.bfloat16


@pytest.mark.usefixtures("lies")
@torch.no_grad()
def test_rows_that_do_not_fit_are_refused_as_the_layer_does() -> None:
    layer = nn.Linear(32, 16)
    twin = twin_of(layer)
    for rows in (torch.randn(2, 48), torch.randn(4, 8), torch.randn(2, 32).half(), torch.randn(2, 32, device="meta")):
        with pytest.raises(RuntimeError) as own:
            layer(rows)
        with pytest.raises(RuntimeError) as ours:
            twin(rows)
        assert str(ours.value) == str(own.value)


@pytest.mark.usefixtures("lies")
@torch.no_grad()
def test_a_default_device_is_not_that_of_the_rows() -> None:
    layer, rows = nn.Linear(32, 16), torch.randn(4, 32)
    twin = twin_of(layer)
    with torch.device("meta"):
        got = twin(rows)
    torch.testing.assert_close(got, layer(rows))


def turned(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.t()  # where it was


def with_gaps(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.randn(32, 64)[:, ::2])


def other_type(layer: nn.Linear) -> None:
    layer.double()


def moved(layer: nn.Linear) -> None:
    layer.weight.data = torch.randn(32, 32)


def written(layer: nn.Linear) -> None:
    layer.weight.mul_(-2)


def bias_moved(layer: nn.Linear) -> None:
    layer.bias.data = torch.randn(32)


def bias_exchanged(layer: nn.Linear) -> None:
    layer.bias = nn.Parameter(torch.randn(64)[::2])


def bias_gone(layer: nn.Linear) -> None:
    layer.bias = None


def pruned(layer: nn.Linear) -> None:
    prune.l1_unstructured(layer, "weight", 0.7)


class _Negative(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return -weight


def parametrised(layer: nn.Linear) -> None:
    parametrize.register_parametrization(layer, "weight", _Negative())


def quantised(layer: nn.Linear) -> None:
    class Other(torch.Tensor):
        """As those that hold numbers in few bits, it says itself what a product is."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_function__(func, types, args, kwargs or {})
            return 3 * result.as_subclass(torch.Tensor) if func is nn.functional.linear else result

    layer.weight = nn.Parameter(torch.randn(32, 32).as_subclass(Other), requires_grad=False)


CHANGES = (
    turned, with_gaps, other_type, moved, written, bias_moved, bias_exchanged, bias_gone, pruned, parametrised,
    quantised,
)  # fmt: skip


@pytest.mark.usefixtures("lies")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@torch.no_grad()
def test_a_weight_that_changes_under_its_twin_is_seen(change: Callable[[nn.Linear], None]) -> None:
    layer, rows = nn.Linear(32, 32), torch.randn(5, 32)
    twin = twin_of(layer)
    before = twin(rows)
    change(layer)
    rows = rows.to(layer.weight.dtype)
    for _ in range(2):
        torch.testing.assert_close(twin(rows), layer(rows), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(layer(rows).float(), before, atol=1e-2) or change is other_type


def test_layers_that_do_not_lie_in_rows_have_no_twin() -> None:
    layer = nn.Linear(32, 32)
    bias_exchanged(layer)
    assert twin_of(layer) is None
    layer = nn.Linear(32, 32)
    turned(layer)
    assert twin_of(layer) is None
    assert twin_of(nn.Linear(32, 32, dtype=torch.float16)) is None
