"""A few tokens of transformers' own decoding loop: what a model's trial is compared with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import MaxLengthCriteria
from transformers.modeling_outputs import BaseModelOutput

from racer.core.model_runner import CACHE_ARGUMENTS

_KNOWN = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = next(name for name in CACHE_ARGUMENTS if name in _KNOWN)
"""What this transformers' generate calls a cache."""
ENCODED = 6
"""Places of the text that an encoder has read."""


class _TrialSettings(GenerationConfig):  # type: ignore[misc]  # transformers is untyped here
    """Settings that take nothing over from the model's own, where stop strings or a static cache may stand."""

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **settings: Any) -> Any:
        if allow_custom_entries:  # how generate takes them over
            return {}
        return super().update(defaults_only=defaults_only, **settings)


class _Forced(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Lets given tokens win, whatever the model thinks of them."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        column = input_ids.shape[1] - self._start
        if column == self._tokens.shape[1]:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, self._tokens[:, column : column + 1], 0.0)


@attrs.frozen(eq=False)
class OwnRun:
    """What transformers' loop made of a prompt and of given tokens after it."""

    logits: Tensor
    """``[B, T + 1, V]`` after the prompt and after each token."""
    cache: Any
    planes: int | None = None
    """Planes of positions that were prepared; None: there was one, without a dimension of its own."""


def own_logits(
    model: Any, input_ids: Tensor, padding: list[int], forced: Tensor, fill: Callable[[Any], None] | None = None
) -> OwnRun:
    """Let transformers decode a prompt and ``T`` tokens that are given.

    ``generate`` prepares the call and its loop runs it, with whatever a model has overridden of both; the model's own
    generation settings do not count.

    :param input_ids: ``[B, P]``, left-padded.
    :param padding: masked columns of each row.
    :param forced: ``[B, T]``
    :param fill: puts into the empty cache what has been seen of the prompt: all but its last token.
    """
    width, steps = input_ids.shape[1], forced.shape[1]
    seen: dict[str, Any] = {}

    def loop(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **inputs: Any,
    ) -> Any:
        seen.update(inputs)
        if fill is not None:
            fill(inputs.get(CACHE))
        return model._sample(
            input_ids,
            logits_processor=LogitsProcessorList([_Forced(forced, width)]),
            stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(width + steps + 1)]),
            generation_config=generation_config,
            **inputs,
        )

    output = generate_with(model, input_ids, padding, steps, loop)
    position = seen.get("position_ids")
    planes = len(position) if position is not None and position.dim() == 3 else None
    return OwnRun(torch.stack(output.logits, dim=1), seen.get(CACHE), planes)


def generate_with(model: Any, input_ids: Tensor, padding: list[int], steps: int, loop: Callable[..., Any]) -> Any:
    """What ``loop`` makes of a prompt that ``generate`` has prepared for it, with room for ``steps + 1`` new tokens.

    The model's own generation settings do not count.

    :param input_ids: ``[B, P]``, left-padded.
    :param padding: masked columns of each row.
    """
    width = input_ids.shape[1]
    settings = _TrialSettings(
        max_length=width + steps + 1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    settings.disable_compile = True
    columns = torch.arange(width, device=input_ids.device)
    mask = (columns >= torch.tensor(padding, device=input_ids.device)[:, None]).long()
    given = {"input_ids": input_ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        settings.decoder_start_token_id = int(input_ids[0, 0])  # or transformers would put another one first
        given = _encoded(model, input_ids, mask)
    return GenerationMixin.generate(
        model,
        **given,
        generation_config=settings,
        custom_generate=loop,
    )


def _encoded(model: Any, input_ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """What ``generate`` is given for a decoder's prompt: behind the same text, or behind made-up vectors where the
    encoder reads something else."""
    given = {"decoder_input_ids": input_ids, "decoder_attention_mask": mask}
    if model.main_input_name == "input_ids":
        return {**given, "input_ids": input_ids.flip(1)}
    states = encoder_states(model, len(input_ids), torch.Generator().manual_seed(5))
    return {**given, "encoder_outputs": BaseModelOutput(last_hidden_state=states)}


def encoder_states(model: Any, rows: int, generator: torch.Generator) -> Tensor:
    """``[rows, ENCODED, width]``: what a decoder sees of something that an encoder has read, made up."""
    text = model.config.get_text_config(decoder=True)
    width = getattr(text, "d_model", None) or text.hidden_size
    return torch.randn(rows, ENCODED, width, generator=generator).to(model.device, model.dtype)
