"""Configurations are checked when made, and survive a trip through TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from racer import DecodeConfig, Greedy, Logits
from racer.config import COMPILE
from racer.errors import ConfigError

configs = st.builds(
    DecodeConfig,
    drafter=st.sampled_from(["racer", "none", "суффикс"]),
    verifier=st.sampled_from(["auto", "typical"]),
    budget=st.just("auto") | st.integers(1, 4096),
    seed=st.none() | st.integers(0, 2**63 - 1),
    prefill_chunk=st.integers(1, 10_000),
    compile=st.sampled_from(COMPILE),
)


@given(configs)
def test_dict_round_trip(config: DecodeConfig) -> None:
    assert DecodeConfig.from_dict(config.to_dict()) == config


@given(config=configs)
def test_toml_round_trip(config: DecodeConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "racer.toml"
    config.to_toml(path)
    assert DecodeConfig.from_toml(path) == config


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("budget", 0, "from 1 \\(plain decoding\\) to 4096, not 0"),
        ("budget", -3, "not -3"),
        ("budget", 10**9, "not 1000000000"),
        ("budget", 2.5, "not 2.5"),
        ("budget", True, "not True"),
        ("budget", "", "not ''"),
        ("budget", "64", "not '64'"),
        ("seed", True, "seed must be"),
        ("prefill_chunk", True, "prefill_chunk must be"),
        ("drafter", Logits, "drafter must be a name or an object"),
        ("drafter", 5, "drafter must be a name or an object"),
        ("drafter", "", "drafter must be a name or an object"),
        ("verifier", Logits(), "verifier must be a name or an object with verify"),
        ("seed", -1, "seed must be None or a whole number"),
        ("seed", "7", "seed must be"),
        ("prefill_chunk", 0, "prefill_chunk must be a positive"),
        ("compile", "on", "compile must be one of 'auto', 'graphs', 'inductor', 'static', 'off', not 'on'"),
        ("compile", True, "compile must be one of"),
    ],
)
def test_values_out_of_range(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DecodeConfig(**{field: value})
    assert issubclass(ConfigError, ValueError)


def test_configurations_are_frozen_and_keyword_only() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        DecodeConfig().budget = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        DecodeConfig("racer")  # type: ignore[misc]


def test_what_cannot_be_written_or_read(tmp_path: Path) -> None:
    for config in (DecodeConfig(drafter=Logits()), DecodeConfig(verifier=Greedy()), DecodeConfig(plugins=[object()])):
        with pytest.raises(ConfigError, match="only registered names"):
            config.to_dict()
    with pytest.raises(ConfigError, match="unknown setting 'drafer'; there are drafter"):
        DecodeConfig.from_dict({"drafer": "racer"})
    (tmp_path / "bad.toml").write_text("budget = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        DecodeConfig.from_toml(tmp_path / "bad.toml")


def test_drafters_need_no_hash() -> None:
    class Odd(Logits):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("nobody asks")

    drafter = Odd()
    assert len({DecodeConfig(drafter=drafter), DecodeConfig(drafter=drafter), DecodeConfig(drafter=Odd())}) == 2


def test_equal_settings_are_equal_and_objects_are_themselves() -> None:
    drafter = Logits()
    assert hash(DecodeConfig(drafter=drafter)) == hash(DecodeConfig(drafter=drafter))
    assert DecodeConfig(drafter=drafter) == DecodeConfig(drafter=drafter) != DecodeConfig(drafter=Logits())
