"""The built-in drafters, registered through the same hook and entry point as anybody else's."""

from racer.hookspecs import hookimpl
from racer.registry import Registry
from racer.strategies.base import Drafter
from racer.strategies.logits import Logits
from racer.strategies.merge import Merge
from racer.strategies.none import NoDraft
from racer.strategies.prompt_lookup import PromptLookup
from racer.strategies.recycling import Recycling
from racer.strategies.retrieval import Retrieval

__all__ = ["Drafter", "Logits", "Merge", "NoDraft", "PromptLookup", "Recycling", "Retrieval"]


def racer_paper() -> Merge:
    """The paper's tree: retrieved nodes first, copied logits in what is left."""
    return Merge(Retrieval(ngram=10, max_nodes=10_000), Logits(top_k=8), policy="fill", name="racer-paper")


@hookimpl
def racer_register(registry: Registry) -> None:
    # its module takes a quarter of a second to import, and its machine code a second to load: only who uses it waits
    racer = "racer.strategies.context:Racer"
    registry.drafter("racer", racer, summary="the default: text matches and top-k tables, by a learned estimate")
    registry.drafter("racer-paper", racer_paper, summary="the tree of arXiv 2604.14885, frozen for comparison")
    registry.drafter(
        "retrieval", Retrieval, summary="exact patterns of this and earlier texts (Aho-Corasick automaton)"
    )
    registry.drafter("logits", Logits, summary="the top tokens that last followed each token (copy-logit tree)")
    registry.drafter("recycling", Recycling, summary="a tree of fixed shape over the same; lives on the model's device")
    registry.drafter("prompt-lookup", PromptLookup, summary="one chain: what followed the last n-gram before")
    registry.drafter("none", NoDraft, summary="plain decoding, one token a step")
