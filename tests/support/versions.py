"""What the oldest transformers that we support lacks or does otherwise: tests of that are skipped there, and say so."""

from __future__ import annotations

import pytest
import transformers
from packaging.version import Version

RECENT = Version(transformers.__version__) >= Version("5.20")


def recent(why: str) -> pytest.MarkDecorator:
    """Skip a test on transformers of long ago.

    :param why: what is otherwise there.
    """
    return pytest.mark.skipif(not RECENT, reason=f"transformers {transformers.__version__}: {why}")
