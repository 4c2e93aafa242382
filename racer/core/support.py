"""What a model can do, found out by trying: no flag in a configuration is trusted.

A small random tree is scored through the model runner and compared with the plain run of every path. Models with
recurrent state, position biases that ignore ``position_ids`` or layers that cannot be masked fail, and are decoded
plainly.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import DynamicCache

from racer.core.grouped_attention import PLAIN, reads_names
from racer.core.kv_cache import Block, CacheLayout
from racer.core.masks import MaskPlan
from racer.core.model_runner import CACHE_ARGUMENTS, ForwardPlan, ModelRunner
from racer.core.model_state import state_of
from racer.errors import UnsupportedModel
from racer.step.draft_tree import DraftTree

TREE_ATTENTION = ("sdpa", "eager")
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}
"""They rotate by the longest position of a forward pass: a tree, or a piece of prompt, would change the angles."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Root mean square error of a tree's logits against the plain run, in standard deviations of the logits, that may be
rounding (many models compute their softmax in float32 whatever their dtype). SmolLM2-135M has 0.07 in bf16; with nodes
that see their siblings it has 0.56."""


@attrs.frozen(eq=False)
class Support:
    """The result of :func:`probe`."""

    plan: ForwardPlan | None
    """None if the model cannot be verified with trees."""
    reason: str
    """Why not; empty if it can."""
    vocab_size: int


@attrs.define(eq=False)
class _LastProbe:
    """What was found out about a model, kept until its attention, dtype or device changes."""

    found: tuple[tuple[Any, ...], Support] | None = None
    """What was probed, and what came of it: one value, as threads may probe at once."""


def probe(model: Any) -> Support:
    """What ``model`` can do, by a few short forward passes; remembered until its attention, dtype or device changes.

    :raises UnsupportedModel: it must be loaded or prepared otherwise; the message says how.
    """
    attention = model.config.get_text_config()._attn_implementation
    if attention not in TREE_ATTENTION:
        raise UnsupportedModel(
            f"attention implementation {attention!r} cannot take a tree mask: load the model with "
            "attn_implementation='sdpa', or call model.set_attn_implementation('sdpa')"
        )
    if model.training:
        raise UnsupportedModel("the model is in training mode, so its output is random: call model.eval()")
    if model.config.is_encoder_decoder:
        raise UnsupportedModel("encoder-decoder models are not supported: RACER decodes causal language models")
    subject = (attention, model.dtype, model.device, _vocab_size(model), torch.is_autocast_enabled(model.device.type))
    last = state_of(model).part(_LastProbe)
    found = last.found
    if found is None or found[0] != subject:
        found = last.found = subject, _probe(model)
    return found[1]


@torch.no_grad()
def _probe(model: Any) -> Support:
    config = model.config.get_text_config()
    vocab_size = _vocab_size(model)
    accepted = inspect.signature(model.forward).parameters
    masks = MaskPlan.of(config)
    if isinstance(masks, str):
        return Support(None, masks, vocab_size)
    if stretched := sorted(_rope_types(config) & LENGTH_DEPENDENT_ROPE):
        return Support(None, f"its {stretched[0]!r} rotary embedding depends on the length of the sequence", vocab_size)
    if "position_ids" not in accepted:
        return Support(None, "its forward takes no position_ids", vocab_size)
    cache_argument = next((name for name in CACHE_ARGUMENTS if name in accepted), None)
    if cache_argument is None:
        return Support(None, f"its forward takes none of {', '.join(CACHE_ARGUMENTS)}", vocab_size)
    try:
        plan = ForwardPlan(
            _layout(model, vocab_size, cache_argument), masks, "logits_to_keep" in accepted, cache_argument
        )
    except Exception as failure:
        return Support(None, f"a trial run failed with {type(failure).__name__}: {failure}", vocab_size)
    # elsewhere it has not been measured
    if model.device.type == "cpu" and config._attn_implementation == PLAIN and not reads_names(model):
        runner = ModelRunner(model, attrs.evolve(plan, groups=True))
        if not _fault(runner, vocab_size) and runner.twin is not None:
            return Support(runner.plan, "", vocab_size)
    reason = _fault(ModelRunner(model, plan), vocab_size)
    return Support(None if reason else plan, reason, vocab_size)


def _fault(runner: ModelRunner, vocab_size: int) -> str:
    """What a trial tree shows to be wrong; empty if nothing is."""
    try:
        error = _tree_error(runner, vocab_size)
    except Exception as failure:  # any failure of a trial run means: not with trees
        return f"a trial tree failed with {type(failure).__name__}: {failure}"
    if error <= TOLERANCE.get(runner.model.dtype, 0.1):
        return ""
    return f"a trial tree's logits differ from the plain run's by {error:.2g} standard deviations"


def _vocab_size(model: Any) -> int:
    """Ids that can be both given out and read in: a head may be larger than the embedding, and the other way."""
    rows = []
    for end in (model.get_input_embeddings, model.get_output_embeddings):
        with suppress(NotImplementedError, AttributeError):  # models without weights of that name
            rows.append(int(end().weight.shape[0]))
    return min(rows, default=int(model.config.get_text_config().vocab_size))


def _rope_types(config: Any) -> set[str]:
    """Kinds of rotary embedding in a configuration, which may nest them by layer type."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [given, *(part for part in given.values() if isinstance(part, dict))]
    return {str(part.get("rope_type", part.get("type", ""))) for part in nested}


def _random_tokens(count: int, vocab_size: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (1, count), generator=generator).to(device)


def _layout(model: Any, vocab_size: int, cache_argument: str) -> CacheLayout:
    """What each layer stores, from one run with transformers' own cache."""
    cache = DynamicCache(config=model.config)
    model(input_ids=_random_tokens(3, vocab_size, model.device), use_cache=True, **{cache_argument: cache})
    return CacheLayout(
        keys=tuple(Block.of(layer.keys) for layer in cache.layers),
        values=tuple(Block.of(layer.values) for layer in cache.layers),
    )


def _tree_error(runner: ModelRunner, vocab_size: int) -> float:
    """Score a tree after a prompt, keep one path, score another tree, and compare all paths with plain runs."""
    model, device = runner.model, runner.model.device
    ids = _random_tokens(12, vocab_size, device)
    prompt, tokens = ids[:, :5], ids[:, 5:]
    parent = torch.tensor([[-1, 0, 0, 1, 1, 2, 4]], device=device)  # 0 -> (1 -> (3, 4 -> 6), 2 -> 5)
    tree = DraftTree(tokens, parent, torch.tensor([7], device=device))
    cache = runner.open([0], 64)
    list(runner.prefill(prompt, cache, chunk=3, keep=prompt.shape[1]))
    first = runner.forward(tree, cache, 10**6)[0]
    cache.commit(torch.tensor([[0, 1, 4, 6]], device=device), [4])
    committed = torch.cat([prompt, tokens[:, [0, 1, 4, 6]]], dim=1)
    second = runner.forward(tree, cache, 10**6)[0]
    errors = []
    for before, logits in ((prompt, first), (committed, second)):
        for path in ([0, 1, 3], [0, 1, 4, 6], [0, 2, 5]):
            plain = model(input_ids=torch.cat([before, tokens[:, path]], dim=1), use_cache=False).logits[
                0, -len(path) :
            ]
            errors.append((logits[path] - plain).double().square().mean().sqrt() / plain.double().std().clamp(min=1e-9))
    return float(torch.stack(errors).max())
