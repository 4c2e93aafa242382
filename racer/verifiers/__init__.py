"""The built-in verifiers, registered through the same hook and entry point as anybody else's."""

from racer.hookspecs import hookimpl
from racer.registry import Registry
from racer.verifiers.base import Verifier
from racer.verifiers.exact import Greedy, Sampling
from racer.verifiers.typical import Typical

__all__ = ["Greedy", "Sampling", "Typical", "Verifier"]


@hookimpl
def racer_register(registry: Registry) -> None:
    registry.verifier("greedy", Greedy, exact=True, summary="the tokens of greedy decoding")
    registry.verifier("sampling", Sampling, exact=True, summary="the tokens of sampling with the same seed")
    registry.verifier(
        "typical", Typical, exact=False, summary="typical acceptance (Medusa): faster, changes the output"
    )
