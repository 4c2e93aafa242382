"""Hypothesis profiles, and an environment without settings."""

from __future__ import annotations

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("default", deadline=None, max_examples=30)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user() -> None:
    for name in [name for name in os.environ if name.startswith("RACER_VLLM_")]:
        del os.environ[name]
