"""RACER: training-free tree speculative decoding for Hugging Face language models."""

from racer.builder import TreeBuilder, stack
from racer.config import DecodeConfig
from racer.decoder import Decoder
from racer.errors import RacerError
from racer.hf import attach, custom_generate, detach, generate
from racer.hookspecs import hookimpl
from racer.request import Needs, Request, StepView, Verdict
from racer.stats import DecodeStats
from racer.strategies import Drafter, Logits, Merge, NoDraft, PromptLookup, Retrieval
from racer.tree import DraftTree
from racer.verifiers import Greedy, Sampling, Typical, Verifier

__version__ = "0.1.0"

__all__ = [
    "DecodeConfig",
    "DecodeStats",
    "Decoder",
    "DraftTree",
    "Drafter",
    "Greedy",
    "Logits",
    "Merge",
    "Needs",
    "NoDraft",
    "PromptLookup",
    "RacerError",
    "Request",
    "Retrieval",
    "Sampling",
    "StepView",
    "TreeBuilder",
    "Typical",
    "Verdict",
    "Verifier",
    "attach",
    "custom_generate",
    "detach",
    "generate",
    "hookimpl",
    "stack",
]
