"""Products with few rows are those of the layer, whichever way is fastest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from racer.core import few_rows
from racer.core.few_rows import FewRows, FewRowsLinear
from racer.core.few_rows import few_rows as leaf_of
from racer.core.packed_weights import Looks
from racer.testing import toy_model


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "LARGE", 1)


def twin_of_layer(layer: nn.Linear, looks: Looks | None = None) -> Any:
    model: Any = toy_model(50).float()
    leaf = leaf_of(model, looks or Looks())
    assert leaf is not None
    return leaf(layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", few_rows.WAYS, ids=lambda way: way.__name__)
def test_each_way_gives_the_product(way: Any, bias: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    rows = torch.randn(7, 24)
    with torch.no_grad():
        got = way(rows, layer.weight, layer.bias)
        assert got.is_contiguous()
        torch.testing.assert_close(got, layer(rows))


@pytest.mark.usefixtures("small")
def test_ways_are_timed_until_one_is_known_and_every_product_is_right() -> None:
    layer, looks = nn.Linear(24, 40), Looks()
    twin = twin_of_layer(layer, looks)
    assert isinstance(twin, FewRowsLinear)
    with torch.no_grad():
        for _ in range(len(few_rows.WAYS) * (few_rows.ROUNDS + 1)):
            for shape in ((1, 5, 24), (2, 3, 24), (1, 1, 24), (3, 24), (90, 24)):
                rows = torch.randn(shape)
                torch.testing.assert_close(twin(rows), layer(rows))
        timed = looks.count
        twin(torch.randn(1, 5, 24))
    assert 0 < timed == looks.count


@pytest.mark.usefixtures("small")
def test_a_way_that_torch_refuses_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(few_rows, "WAYS", (refused, few_rows.WAYS[0]))
    ways, looks, layer = FewRows(), Looks(), nn.Linear(24, 40)
    with torch.no_grad():
        for _ in range(20):
            rows = torch.randn(6, 24)
            torch.testing.assert_close(ways.product(rows, layer.weight, layer.bias, looks), layer(rows))
    assert ways._fastest[8, False, torch.get_num_threads()] is few_rows.WAYS[1]


def test_small_layers_and_other_types_are_left_alone() -> None:
    assert twin_of_layer(nn.Linear(24, 40)) is None
    assert leaf_of(toy_model(50).bfloat16(), Looks()) is None


@pytest.mark.usefixtures("small")
def test_what_autocast_or_gradients_ask_for_is_the_layers_own() -> None:
    layer = nn.Linear(24, 40)
    twin, rows = twin_of_layer(layer), torch.randn(5, 24)
    assert twin(rows).requires_grad
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert twin(rows).dtype == torch.bfloat16
