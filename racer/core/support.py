"""What a model can do, found out by trying: no flag in a configuration is trusted.

A few tokens are scored as RACER would score them and compared with transformers' own decoding loop
(:mod:`racer.core.trial`). Models with recurrent state, position biases that ignore ``position_ids``, layers that cannot
be masked, or inputs that are prepared in some way of their own fail: they are tried with chains
(:mod:`racer.core.chain_trial`), and decoded plainly if those fail too.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import attrs
import torch

from racer.core.chain_runner import ChainPlan
from racer.core.chain_trial import chain_faults, pad_of
from racer.core.grouped_attention import EAGER, PLAIN, reads_names
from racer.core.hooks import foreign_hook
from racer.core.kept_weights import shape_of
from racer.core.logit_error import SMALL
from racer.core.masks import MaskPlan
from racer.core.model_runner import CACHE_ARGUMENTS, ForwardPlan, ModelRunner
from racer.core.model_state import state_of
from racer.core.obstacles import no_loop, obstacle, stretched, unprepared
from racer.core.rope import RopeBorder
from racer.core.sibling import sibling_of, small_one_takes_trees
from racer.core.subject import subject_of
from racer.core.tiny_models import WINDOW
from racer.core.trial import PROMPT, Trial
from racer.core.untouched import untouched
from racer.core.windows import MARGIN, beyond, windows_of

LONGEST_PROMPT = 1024
"""Chains are tried on prompts of up to so many tokens, and not used beyond windows that are longer."""
MAX_KEPT = 8
"""States of a model, and windows within them, that are remembered; the least recently used one makes room."""


@attrs.frozen(eq=False)
class Support:
    """The result of :func:`probe`."""

    plan: ForwardPlan | None
    """None if the model cannot be verified with trees."""
    reason: str
    """Why it can be verified neither with trees nor by chains; empty if it can."""
    vocab_size: int = 0
    padding_reason: str = ""
    """Why left-padded rows cannot be, although others can; empty if they can."""
    prepared: bool = True
    """False: the model's user can mend the reason by loading or preparing it otherwise."""
    border: RopeBorder | None = None
    """Where its rotary embedding begins to depend on the length of the text, if it does."""
    windows: tuple[int, ...] = ()
    """Lengths that its configuration names and that it may attend otherwise beyond, ascending."""
    chain: ChainPlan | None = None
    """How it takes chains, where it takes no trees; None otherwise."""
    tree_reason: str = ""
    """Why it takes no trees; empty if it does."""

    @property
    def way(self) -> str:
        """How it is decoded: ``tree``, ``chain`` or ``plain``."""
        return "tree" if self.plan is not None else "chain" if self.chain is not None else "plain"


class _Probes:
    """What was found out about a model in each of its latest states."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Support] = OrderedDict()

    def of(self, subject: Hashable, examine: Callable[[], Support]) -> Support:
        """What was found out about ``subject``, or is now; threads may examine at once."""
        with self._lock:
            if subject in self._found:
                self._found.move_to_end(subject)
                return self._found[subject]
        support = examine()
        with self._lock:
            self._found[subject] = support
            while len(self._found) > MAX_KEPT:
                self._found.popitem(last=False)
        return support


def probe(model: Any, reach: int = 0) -> Support:
    """What ``model`` can do, by a few short forward passes; remembered until something of it changes.

    :param reach: slots that a call's prompt and new tokens take; some rotary embeddings allow only so many. The model
        is also tried beyond every window that its configuration names below; for more slots a plan's trees must keep
        within what was tried.
    """
    try:
        if mend := unprepared(model):
            return Support(None, mend, prepared=False)
        if hook := foreign_hook(model):  # not even to be tried: hooks may count
            return Support(None, f"{hook} would see trees, not text: remove it, or decode without RACER")
        subject = subject_of(model)
    except Exception as failure:  # transformers raises many kinds: for several texts in one configuration, say
        return Support(None, f"it cannot be examined ({type(failure).__name__}: {failure})")
    known = state_of(model).part(_Probes)
    first = known.of(subject, lambda: _quietly(model, lambda: _tree_or_chain(model)))
    if first.way != "plain" and first.border is not None and (fault := first.border.fault(reach)):
        return attrs.evolve(first, plan=None, chain=None, reason=fault)
    if first.way == "plain" or not first.windows:
        return first
    tried = next((window for window in first.windows if window >= reach), None)
    return known.of((subject, tried), lambda: _quietly(model, lambda: _examine_beyond(model, first, tried)))


def _quietly(model: Any, examine: Callable[[], Support]) -> Support:
    """Examine without gradients, and leave no trace: a model that draws random numbers has not drawn any."""
    devices = [model.device] if model.device.type == "cuda" else []
    before = torch.random.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
    try:
        with torch.no_grad(), untouched(model):
            support = examine()
    except Exception as failure:  # any failure of a trial run means: not with trees
        support = Support(None, f"a trial run failed with {type(failure).__name__}: {failure}")
    if support.way == "plain" or support.padding_reason:  # what other threads drew is not undone without need
        torch.random.set_rng_state(before[0])
        for device, state in zip(devices, before[1], strict=True):
            torch.cuda.set_rng_state(state, device)
    return support


def _tree_or_chain(model: Any) -> Support:
    """What a few tokens show: trees where a model takes them, chains where it takes those."""
    try:
        support = _examine(model)
    except Exception as failure:  # any failure of a trial run means: not with trees
        support = Support(None, f"a trial run failed with {type(failure).__name__}: {failure}")
    return support if support.plan is not None else _examine_chain(model, support, [])


def _examine_chain(model: Any, trees: Support, windows: list[int], tried: int | None = None) -> Support:
    """What chains show of a model that does not take trees, beyond ``windows``.

    :param tried: slots of a call that these windows are for.
    """
    if no_loop(model) or stretched(model):
        return trees
    vocab_size = trees.vocab_size or _vocab_size(model)
    near = [window for window in windows if window <= LONGEST_PROMPT]
    if len(near) < len(windows):  # beyond the next one chains are not tried, and not used
        tried = windows[len(near)]
    prompt = near[-1] + MARGIN if near else PROMPT
    chain, reason, padded = chain_faults(model, vocab_size, prompt, lambda: not sibling_of(type(model)).fault)
    if chain is not None and (chain.states or model.dtype in SMALL):
        sibling = sibling_of(type(model))
        reason = sibling.fault if chain.states else ""
        if sibling.counts_pads:
            chain = attrs.evolve(chain, alone=pad_of(model, vocab_size))
    if chain is not None and not reason:
        return Support(
            plan=None,
            reason="",
            vocab_size=vocab_size,
            padding_reason=padded,
            border=RopeBorder.of(model.config.get_text_config()),
            windows=windows_of(model.config.get_text_config()),
            chain=attrs.evolve(chain, tried=tried),
            tree_reason=trees.reason,
        )
    return attrs.evolve(trees, reason=f"{trees.reason}; nor by chains: {reason}", tree_reason=trees.reason)


def _examine(model: Any) -> Support:
    """What a few tokens show."""
    vocab_size = _vocab_size(model)
    masks = MaskPlan.of(model.config)
    reason = masks if isinstance(masks, str) else obstacle(model)
    if reason or isinstance(masks, str):
        return Support(None, reason, vocab_size)
    accepted = inspect.signature(model.forward).parameters
    trial = Trial.of(model, vocab_size)
    if "position_ids" not in accepted and not trial.heeds_positions():
        return Support(None, "its forward drops position_ids", vocab_size)
    cache_argument = next(name for name in CACHE_ARGUMENTS if name in accepted)
    plan = ForwardPlan(trial.layout, masks, "logits_to_keep" in accepted, cache_argument, trial.planes)
    attention = model.config.get_text_config()._attn_implementation
    if attention not in (PLAIN, EAGER):
        return _switched(trial, attrs.evolve(plan, groups=True, switched=True), vocab_size)
    if model.device.type == "cpu" and attention == PLAIN and not reads_names(model):  # elsewhere it is not measured
        runner = ModelRunner(model, attrs.evolve(plan, groups=True))
        faster = _tried(trial, runner, vocab_size)
        if faster.plan is not None and not faster.padding_reason and runner.twin is not None:
            return faster
    return _tried(trial, ModelRunner(model, plan), vocab_size)


def _switched(trial: Trial, plan: ForwardPlan, vocab_size: int) -> Support:
    """What trees show whose attention is ``sdpa`` in place of the model's own."""
    model = trial.model
    runner = ModelRunner(model, plan)
    if runner.twin is None or reads_names(model):
        attention = model.config.get_text_config()._attn_implementation
        return Support(
            None,
            f"attention implementation {attention!r} takes no tree mask, and its code or hooks on it keep RACER from "
            "putting 'sdpa' in its place: load the model with attn_implementation='sdpa', or call "
            "model.set_attn_implementation('sdpa')",
            vocab_size,
        )
    return _tried(trial, runner, vocab_size)


def _tried(trial: Trial, runner: ModelRunner, vocab_size: int) -> Support:
    reason, padded, positions = trial.faults(runner, _soundness(trial.model))
    config = trial.model.config.get_text_config()
    border = RopeBorder.of(config)
    if border is not None:  # no node may stand beyond it: its pass would be another
        positions = min(positions or border.length, border.length)
    plan = attrs.evolve(runner.plan, positions=positions)
    return Support(None if reason else plan, reason, vocab_size, padded, border=border, windows=windows_of(config))


def _examine_beyond(model: Any, first: Support, tried: int | None) -> Support:
    """What a trial beyond all windows, or all before ``tried``, shows of a model that takes trees before them."""
    windows = [window for window in first.windows if tried is None or window < tried]
    if first.plan is None:
        trees = attrs.evolve(first, reason=first.tree_reason, chain=None)
        return _examine_chain(model, trees, windows, tried) if windows else first
    plan = attrs.evolve(first.plan, tried=tried)
    reason = padded = ""
    if windows:
        reason, padded = beyond(ModelRunner(model, plan), first.vocab_size, windows, _soundness(model))
    if reason:
        return _examine_chain(model, attrs.evolve(first, plan=None, reason=reason), windows, tried)
    return attrs.evolve(first, plan=plan, padding_reason=first.padding_reason or padded)


def _soundness(model: Any) -> Callable[[], bool]:
    """Tells whether a small model of its class takes trees, beyond windows and beside padding too."""

    def takes(small: Any) -> bool:
        support = probe(small, 8 * WINDOW)
        return support.plan is not None and not support.padding_reason

    return lambda: small_one_takes_trees(type(model), takes)


def _vocab_size(model: Any) -> int:
    """Ids that can be both given out and read in: a head may be larger than the embedding, and the other way."""
    rows = []
    for end in (model.get_input_embeddings, model.get_output_embeddings):
        with suppress(NotImplementedError, AttributeError):  # models without weights of that name
            rows.append(int(shape_of(end())[0]))
    return min(rows, default=int(model.config.get_text_config().vocab_size))
