"""RACER's drafters in vLLM: name ``racer_vllm.Proposer`` as the class that proposes."""

from racer_vllm.proposer import Proposer
from racer_vllm.settings import Settings

__all__ = ["Proposer", "Settings"]
