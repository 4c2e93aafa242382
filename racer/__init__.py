"""RACER: training-free tree speculative decoding for Hugging Face language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from racer.budgets.base import Budget
    from racer.config import DecodeConfig
    from racer.core.model_state import release
    from racer.engine.continuous.stream import Chunk, Completion, Stream, TokenScore
    from racer.errors import RacerError, StateError
    from racer.hf.attach import attach, detach
    from racer.hf.engine import Engine
    from racer.hf.examine import Examination, examine
    from racer.hf.generate import Decoder, custom_generate, generate
    from racer.hf.plain import PlainDecodingWarning
    from racer.hf.processors import PerRow
    from racer.hookspecs import hookimpl
    from racer.kernels.gumbel import gumbel
    from racer.step.draft_tree import DraftTree
    from racer.step.request import Request
    from racer.step.stats import DecodeStats, StepStats
    from racer.step.tree_builder import TreeBuilder, stack
    from racer.step.verdict import HostVerdict, Verdict
    from racer.step.view import Needs, Prefix, StepView
    from racer.strategies import Drafter, Logits, Merge, NoDraft, PromptLookup, Recycling, Retrieval
    from racer.strategies.context.drafter import Racer
    from racer.strategies.device import DeviceDrafter, DraftProgram
    from racer.verifiers import Greedy, Sampling, Typical, Verifier
    from racer.verifiers.base import longest_path

__version__ = "0.1.0"

_HOMES = {
    "racer.budgets.base": ("Budget",),
    "racer.step.tree_builder": ("TreeBuilder", "stack"),
    "racer.config": ("DecodeConfig",),
    "racer.errors": ("RacerError", "StateError"),
    "racer.hf.attach": ("attach", "detach"),
    "racer.engine.continuous.stream": ("Chunk", "Completion", "Stream", "TokenScore"),
    "racer.hf.engine": ("Engine",),
    "racer.hf.examine": ("Examination", "examine"),
    "racer.hf.generate": ("Decoder", "custom_generate", "generate"),
    "racer.hf.plain": ("PlainDecodingWarning",),
    "racer.hf.processors": ("PerRow",),
    "racer.core.model_state": ("release",),
    "racer.hookspecs": ("hookimpl",),
    "racer.kernels.gumbel": ("gumbel",),
    "racer.step.request": ("Request",),
    "racer.step.view": ("Needs", "Prefix", "StepView"),
    "racer.step.stats": ("DecodeStats", "StepStats"),
    "racer.strategies": ("Drafter", "Logits", "Merge", "NoDraft", "PromptLookup", "Recycling", "Retrieval"),
    "racer.strategies.context.drafter": ("Racer",),
    "racer.strategies.device": ("DraftProgram", "DeviceDrafter"),
    "racer.step.draft_tree": ("DraftTree",),
    "racer.step.verdict": ("HostVerdict", "Verdict"),
    "racer.verifiers": ("Greedy", "Sampling", "Typical", "Verifier"),
    "racer.verifiers.base": ("longest_path",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Budget",
    "Chunk",
    "Completion",
    "DecodeConfig",
    "DecodeStats",
    "Decoder",
    "DeviceDrafter",
    "DraftProgram",
    "DraftTree",
    "Drafter",
    "Engine",
    "Examination",
    "Greedy",
    "HostVerdict",
    "Logits",
    "Merge",
    "Needs",
    "NoDraft",
    "PerRow",
    "PlainDecodingWarning",
    "Prefix",
    "PromptLookup",
    "Racer",
    "RacerError",
    "Recycling",
    "Request",
    "Retrieval",
    "Sampling",
    "StateError",
    "StepStats",
    "StepView",
    "Stream",
    "TokenScore",
    "TreeBuilder",
    "Typical",
    "Verdict",
    "Verifier",
    "attach",
    "custom_generate",
    "detach",
    "examine",
    "generate",
    "gumbel",
    "hookimpl",
    "longest_path",
    "release",
    "stack",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch takes seconds, and ``racer --help`` needs none of it."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'racer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
