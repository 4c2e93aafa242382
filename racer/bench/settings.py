"""How all methods of a run are to answer."""

from __future__ import annotations

from typing import Any

import attrs

from racer.loading.loaded_model import sampling_arguments


@attrs.frozen(kw_only=True)
class Settings:
    """The same for everybody."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 1
    cold: bool = False
    """Forget what was learned before every prompt."""
    compile: str = "auto"
    """``DecodeConfig.compile`` of all methods but transformers' own, ..."""
    pack: bool | str = "auto"
    """... and ``DecodeConfig.pack``."""

    @property
    def sample(self) -> bool:
        return self.temperature > 0

    def arguments(self) -> dict[str, Any]:
        """For ``generate``."""
        return sampling_arguments(self.sample, self.temperature, self.top_p)
