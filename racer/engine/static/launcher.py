"""How the operations of a static step are run, from the fastest way to the plainest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from racer.core.stand_in import call_model
from racer.engine.static.cuda_graphs import Eager, Graphs, warn_of

DRAFT, FORWARD, VERIFY = "draft", "forward", "verify"


@attrs.define(eq=False)
class Launcher:
    """What runs steps; kept with their batch, as a failure is worth remembering."""

    backend: Eager | Graphs
    """Captures, or does not."""
    call: Callable[..., Any] = call_model
    """Who calls the model; compiled, or :func:`racer.core.stand_in.call_model`."""
    verifies: bool = True
    """Whether verifiers may be part of a captured step, ..."""
    drafts: bool = True
    """... and drafters."""
    doing: str = FORWARD
    """What a step that fails was at."""

    @property
    def compiled(self) -> bool:
        return self.call is not call_model

    def retreat(self, model: Any, error: Exception) -> None:
        """Give up what failed, say so, and leave a plainer way; raises ``error`` if there is none."""
        if self.doing == DRAFT:
            self.drafts = False
            warn_of(model, "has its drafter outside the CUDA graph", error)
        elif self.compiled:
            self.call = call_model
            warn_of(model, "is not compiled", error)
        elif self.backend.captures and self.doing == VERIFY:
            self.verifies = False
            warn_of(model, "has its verifier outside the CUDA graph", error)
        elif self.backend.captures:
            self.backend, self.verifies, self.drafts = Eager(), True, True
            warn_of(model, "cannot be captured in a CUDA graph and is run without", error)
        else:
            raise error
        self.backend.forget()
