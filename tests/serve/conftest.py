"""One server for all tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import racer
from racer.loading.loaded_model import LoadedModel
from support.serving import Served, load, serving
from support.tiny_folder import build_folder


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny random model with room for a thousand tokens."""
    return load(build_folder(tmp_path_factory.mktemp("served"), max_position_embeddings=1024))


@pytest.fixture(scope="session")
def server(loaded: LoadedModel) -> Iterator[Served]:
    with serving(loaded, config=racer.DecodeConfig(budget=16)) as served:  # steps do not depend on the clock
        yield served
