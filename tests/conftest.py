"""Shared fixtures: hypothesis profiles, tiny models."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# before torch is there: two processes whose threads are as many as the processors wait for each other's
if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))

import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("support")

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU skip, with the reason, where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; torch.cuda.is_available() is False"))


@pytest.fixture(autouse=True)
def _no_silent_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is said of a plugin is logged where warnings are errors, as they are here: no test may miss it."""
    yield
    unheard = [record.getMessage() for record in caplog.get_records("call") if record.name == "racer.errors"]
    assert not unheard, unheard


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes that a test starts heed Ctrl-C: a shell that runs the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    from support.tiny_folder import build_folder

    return build_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded model in the user's own cache: fetched by the first run, there for the others."""
    from racer.errors import ModelNotFound
    from racer.loading import models
    from racer.loading.embedded import embedded_folder

    try:
        return embedded_folder(models.convert)
    except ModelNotFound as error:
        pytest.skip(f"the embedded model is not to be had here: {error}")
