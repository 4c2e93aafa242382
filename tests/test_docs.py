"""The documentation is true: its code runs or at least parses, its links lead somewhere, its lists are complete."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig, Decoder, Drafter, Verdict
from racer.discovery import Plugins, plugins
from racer.engine.static.cuda_graphs import CaptureCheck
from racer.testing import check_drafter, decode, toy_model

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("plugins/*/*.md")),
]
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_python_blocks_parse(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_drafter_in_30_lines_is_one_and_is_right() -> None:
    code = blocks(ROOT / "docs" / "drafters.md", "python")[0]
    assert len(code.strip().splitlines()) <= 36
    space: dict[str, Any] = {"__name__": "pairs"}
    exec(code, space)
    pairs: type[Drafter] = space["Pairs"]
    check_drafter(pairs, max_examples=25)
    found = Plugins(list)
    found.register(type("Module", (), {"racer_register": staticmethod(space["racer_register"])}), "docs")
    assert found.resolve("drafter", "pairs").factory is pairs
    assert DecodeConfig(drafter=racer.Merge(pairs(), racer.Logits(), policy="fill"))


def test_the_drafter_on_the_device_is_right_and_can_be_captured() -> None:
    (code,) = (block for block in blocks(ROOT / "docs" / "drafters.md", "python") if "DeviceDrafter" in block)
    space: dict[str, Any] = {"__name__": "chain"}
    exec(code, space)
    check_drafter(space["Chain"], max_examples=25)
    model, prompts = toy_model(), [[1, 2, 3], [4]]
    _, stats = decode(Decoder(model, DecodeConfig(drafter=space["Chain"](), budget=4)), prompts, 60)
    assert stats.mean_accepted_tokens > 1
    program, root = space["Chain"]().make(torch.device("meta"), 7), torch.zeros(2, dtype=torch.long, device="meta")
    with CaptureCheck():
        tree = program.draft(root, 4)
        cues = torch.zeros(2, 4, 1, dtype=torch.long, device="meta")
        program.observe(tree, Verdict(tree.tokens, root, root, top_ids=cues), root.bool())


def test_the_readme_lists_every_built_in_drafter() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for offer in plugins.load_all():
        if offer.kind == "drafter" and offer.origin.startswith("racer-decoding"):
            assert f"| `{offer.name}` |" in readme


def test_the_quickstart_lists_every_setting() -> None:
    import attrs

    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for field in attrs.fields(DecodeConfig):
        assert f"| `{field.name}` |" in page


def test_the_readme_opens_with_the_two_commands() -> None:
    first, second = re.findall(r"```\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)[:2]
    assert first.startswith('pip install -e ".[gguf]" && racer generate ')
    assert second == 'pip install -e ".[test]" && pytest'
