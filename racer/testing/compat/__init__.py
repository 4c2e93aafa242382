"""The sweep over transformers: a tiny random model of every class, decoded with hostile drafts and compared.

``python -m racer.testing.compat --help`` runs it; docs/compatibility.md is its table.
"""

from racer.core.tiny_models import tiny_model
from racer.testing.compat.check import Finding, check

__all__ = ["Finding", "check", "tiny_model"]
