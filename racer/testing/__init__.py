"""The conformance kit: what a plugin author imports to prove that a drafter is right. Needs hypothesis."""

from racer.testing.kit import check_drafter, decode, decode_plainly
from racer.testing.toy import ToyLM, toy_model
from racer.testing.trees import HostileDrafter, ReplayDrafter, draft_trees

__all__ = [
    "HostileDrafter",
    "ReplayDrafter",
    "ToyLM",
    "check_drafter",
    "decode",
    "decode_plainly",
    "draft_trees",
    "toy_model",
]
