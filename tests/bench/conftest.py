"""The tiny model, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from racer.loading import models
from racer.loading.loaded_model import LoadedModel


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return models.load(str(folder), dtype="fp32", device="cpu")
