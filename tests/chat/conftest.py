"""Fixtures of the chat."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny_folder import build_folder


@pytest.fixture(scope="session")
def folder_of_long_contexts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that can go on for 2048 tokens."""
    return build_folder(tmp_path_factory.mktemp("long"), max_position_embeddings=2048)
