"""Every field of the installed transformers' ``GenerationConfig`` is in the code's table, and in that of the docs."""

from __future__ import annotations

import re
from pathlib import Path

from transformers import GenerationConfig

from racer.hf.settings import FIELDS, Treatment, public_fields

PAGE = Path(__file__).parents[2] / "docs" / "generation_config.md"
ROW = re.compile(r"^\| `(\w+)` \| ([\w ]+) \| (.*) \|$", re.M)


def test_every_field_of_the_installed_transformers_is_in_the_table() -> None:
    """A field that is new: find out what it does to a call, and give it a row."""
    assert public_fields(GenerationConfig()).keys() <= FIELDS.keys()


def test_the_docs_show_the_same_table() -> None:
    shown = {name: (treatment, why) for name, treatment, why in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert shown == {name: (field.treatment.value, field.why) for name, field in FIELDS.items()}


def test_who_is_left_to_transformers_or_ignored_says_why() -> None:
    assert all(field.why for field in FIELDS.values() if field.treatment is not Treatment.HONOURED)
