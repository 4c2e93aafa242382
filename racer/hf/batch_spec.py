"""From the arguments of ``generate`` to a batch, and from its requests back to ``generate``'s tensor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import EosTokenCriteria, GenerationConfig, StoppingCriteriaList
from transformers.generation import MaxLengthCriteria

from racer.core.support import Support
from racer.engine.recording import RecordingPipeline
from racer.engine.spec import BatchSpec
from racer.errors import UnsupportedGeneration
from racer.hf.caches import GivenCache
from racer.hf.criteria import OWN, Lockstep, RowCriteria, in_step, refuse_criteria
from racer.hf.outputs import score_record
from racer.hf.processors import ProcessorPipeline
from racer.hf.streamer import InStep
from racer.hf.unsupported import left_padding
from racer.step.request import Request, row_seed


@attrs.frozen
class Asked:
    """What a call asks for beside the arguments of ``generate``."""

    seed: int | None = None
    """From which each row's is made; None draws one where it is needed."""
    tenant: Hashable = None
    """See :attr:`racer.step.request.Request.tenant`."""
    budget: int | None = None
    """See :attr:`racer.step.request.Request.budget`."""


def batch_spec(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    outside: GivenCache | None,
    settings: GenerationConfig,
    processors: list[Any],
    criteria: list[Any],
    streamer: Any,
    *,
    asked: Asked,
    admit: Callable[[int, bool], Support],
) -> BatchSpec:
    """What to decode.

    :param outside: the cache that is gone on from or filled, if there is one.
    :param admit: asked what the model can do, with the slots that a row may take and whether rows are padded, when all
        else is well.
    :raises UnsupportedGeneration: no room for a new token, a mask with holes or right padding, processors or criteria
        that are only right for several rows as transformers asks them.
    """
    batch, width = input_ids.shape
    limit = _room(criteria, settings, width)
    masked: Sequence[int]
    if outside is None:
        unseen, masked = 0, left_padding(input_ids, attention_mask, width)
    else:
        unseen, masked = outside.unseen, outside.padding
    pipeline = ProcessorPipeline(processors, batch)
    refuse_criteria(
        criteria,
        batch,
        scores=bool(settings.output_scores and settings.return_dict_in_generate),
        streams=streamer is not None,
        remembers=pipeline.remembers,
    )
    support = admit(unseen + width + limit, any(masked))
    seed = asked.seed
    if seed is None:  # nothing may be drawn before it is sure that the call is ours
        seed = int(torch.randint(2**62, ())) if settings.do_sample else 0
    requests = _requests(input_ids, [max(pad - unseen, 0) for pad in masked], limit, seed, asked)
    eos = [item for item in criteria if type(item) is EosTokenCriteria]
    stop_tokens = frozenset(int(token) for item in eos for token in item.eos_token_id.flatten().tolist())
    record = score_record(settings, batch)
    return BatchSpec(
        requests=requests,
        pipeline=pipeline if record is None else RecordingPipeline(pipeline, range(batch)),
        record=record,
        outside=outside,
        support=support,
        do_sample=bool(settings.do_sample),
        stop_tokens=stop_tokens,
        **_ends(criteria, input_ids, settings, stop_tokens),
        emit=None if streamer is None else InStep(streamer, requests, pad_token(settings)).add,
    )


def _requests(input_ids: Tensor, padding: Sequence[int], limit: int, seed: int, asked: Asked) -> tuple[Request, ...]:
    return tuple(
        Request(
            prompt=tuple(ids[pad:]),
            padding=tuple(ids[:pad]),
            limit=limit,
            seed=row_seed(seed, row),
            tenant=asked.tenant,
            budget=asked.budget,
        )
        for row, (ids, pad) in enumerate(zip(input_ids.tolist(), padding, strict=True))
    )


def _room(criteria: list[Any], settings: GenerationConfig, width: int) -> int:
    """New tokens that a row may have, 1 at least."""
    lengths = [item.max_length for item in criteria if type(item) is MaxLengthCriteria]
    limit: int = min(lengths, default=settings.max_length) - width
    if limit < 1:
        raise UnsupportedGeneration(f"the prompt has {width} tokens and max_length leaves no room for a new one")
    return limit


def _ends(
    criteria: list[Any], input_ids: Tensor, settings: GenerationConfig, stop_tokens: frozenset[int]
) -> dict[str, Any]:
    """How a batch asks criteria that the loop does not have itself."""
    others = [item for item in criteria if type(item) not in OWN]
    if in_step(criteria, len(input_ids)):
        pads = any(hasattr(item, "eos_token_id") for item in criteria)
        pad = pad_token(settings) if pads else None
        return {"settle": Lockstep(StoppingCriteriaList(others), input_ids, pad, stop_tokens)}
    if not others:
        return {}
    stops = RowCriteria(others, input_ids.device)
    foresee = stops.foresee if len(input_ids) > 1 else None
    return {"stops": stops, "stops_ahead": stops.ahead, "foresee": foresee}


def sequences_of(input_ids: Tensor, spec: BatchSpec, settings: GenerationConfig) -> Tensor:
    """``[B, P + longest]``; rows that ended earlier are filled with the pad token, as ``generate`` does."""
    longest, fill = max(len(request.emitted) for request in spec.requests), pad_token(settings)
    new = [request.emitted + [fill] * (longest - len(request.emitted)) for request in spec.requests]
    return torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], dim=1)


def pad_token(settings: GenerationConfig) -> int:
    """What stands behind the end of a row."""
    pad = getattr(settings, "_pad_token_tensor", None)
    return int(pad) if pad is not None else (settings.pad_token_id or 0)
