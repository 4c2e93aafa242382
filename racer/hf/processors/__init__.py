"""Hugging Face logits processors, as verifiers see them: what each needs to be right, and how it is asked."""

from racer.hf.processors.per_row import PerRow
from racer.hf.processors.pipeline import ProcessorPipeline

__all__ = ["PerRow", "ProcessorPipeline"]
