"""Options that commands share: which model, on what and with what it is computed, and how an engine decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from racer.config import Choice, DecodeConfig
from racer.discovery import plugins

if TYPE_CHECKING:
    from racer.loading.loaded_model import LoadedModel


@attrs.frozen(kw_only=True)
class ModelOptions:
    """Of all commands that load a model."""

    model: str | None
    dtype: str | None
    weights: str | None
    device: str
    pack: bool | str

    def load(self) -> LoadedModel:
        """The model, with a bar while it is fetched. Imports torch.

        :raises RacerError: it cannot be loaded.
        """
        from racer.cli import render
        from racer.loading import models

        with render.progress_bar() as progress:
            return models.load(
                self.model, dtype=self.dtype, device=self.device, weights=self.weights, progress=progress
            )


@attrs.frozen(kw_only=True)
class EngineOptions(ModelOptions):
    """Of all commands that answer by an engine."""

    drafter: str | Choice
    budget: int | str

    def config(self) -> DecodeConfig:
        """How to decode: in dynamic shapes, as engines do.

        To be asked for before a model is loaded: a wrong name shall be told before anything slow.

        :raises UnknownStrategy: nobody registered a drafter or budget of that name.
        :raises ConfigError: the drafter does not take such a parameter, or such a value.
        """
        plugins.make("drafter", self.drafter)
        if isinstance(self.budget, str):
            plugins.resolve("budget", self.budget)
        return DecodeConfig(drafter=self.drafter, budget=self.budget, compile="off", pack=self.pack)
