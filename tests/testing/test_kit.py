"""The kit passes what is right and catches what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from racer import Drafter
from racer.discovery import plugins
from racer.testing import HostileDrafter, check_drafter


@pytest.mark.parametrize("name", ["racer", "racer-paper", "retrieval", "logits", "recycling", "prompt-lookup", "none"])
def test_built_in_drafters_pass_the_kit(name: str) -> None:
    check_drafter(plugins.resolve("drafter", name).factory, max_examples=40)


def test_the_kit_catches_a_drafter_that_lies() -> None:
    class Lies(Drafter):
        def draft(self, view: Any, budget: int) -> Any:
            return HostileDrafter(1, 50).draft(view, budget)  # ids outside the vocabulary

    with pytest.raises(Warning, match="outside the vocabulary"):
        check_drafter(Lies, max_examples=20)
