"""Hypothesis profiles."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("default", deadline=None, max_examples=30)
hypothesis.settings.load_profile("default")
