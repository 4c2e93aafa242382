"""What the sweep gives to a model: two rows, text for a decoder, or something for an encoder to read."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from racer.core.own_loop import encoder_states
from racer.core.tiny_models import START, VOCAB

PROMPT = 20
PADDING = 3
"""Masked columns of the first row: at its left where a decoder reads it, at its right where an encoder does."""


@attrs.frozen(eq=False)
class Prompts:
    """Two rows."""

    ids: Tensor
    """``[2, P]``: what the decoder goes on from."""
    pads: tuple[int, int]
    """Masked columns at the left of each row of it."""
    read: dict[str, Any]
    """What an encoder is given, ``[2, ...]`` each; empty if there is none."""

    @classmethod
    def of(cls, model: Any) -> Prompts:
        """Those for a model."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, VOCAB - 60, (2, PROMPT), generator=generator)
        if not model.config.is_encoder_decoder:
            return cls(ids, (PADDING, 0), {})
        start = torch.cat([torch.full((2, 1), START), ids[:, :3]], dim=1)
        if model.main_input_name == "input_ids":
            mask = torch.ones_like(ids)
            mask[0, -PADDING:] = 0
            return cls(start, (0, 0), {"input_ids": ids, "attention_mask": mask})
        config = model.config
        if model.main_input_name == "input_features" and hasattr(config, "num_mel_bins"):
            shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
            return cls(start, (0, 0), {"input_features": torch.randn(shape, generator=generator)})
        return cls(start, (0, 0), {"encoder_outputs": encoder_states(model, 2, generator)})

    def given(self, rows: slice, text: Tensor | None = None) -> dict[str, Any]:
        """What ``generate`` is given.

        :param text: ``[B, T]``: what the decoder goes on from, in place of its prompts.
        """
        text = self.ids[rows] if text is None else text
        if not self.read:
            columns = torch.arange(text.shape[1])
            mask = (columns >= torch.tensor(self.pads[rows])[:, None]).long()
            return {"input_ids": text, "attention_mask": mask}
        read = {name: part[rows] for name, part in self.read.items()}
        if "encoder_outputs" in read:
            read["encoder_outputs"] = BaseModelOutput(last_hidden_state=read["encoder_outputs"])
        return {**read, "decoder_input_ids": text}
