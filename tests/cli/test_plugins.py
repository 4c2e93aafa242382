"""``racer plugins``: the list, and what is broken."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint

import pytest

import racer.discovery
from racer.cli import main
from support.command import Capture


def test_plugins_lists_the_built_ins(capsys: Capture) -> None:
    assert main(["plugins", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    found = {(entry["kind"], entry["name"]): entry for entry in data["plugins"]}
    built_in = ["retrieval", "logits", "recycling", "racer-paper", "racer", "prompt-lookup", "none"]
    for key in [("drafter", name) for name in built_in] + [("verifier", "greedy"), ("budget", "auto")]:
        assert found[key]["origin"].startswith("racer-decoding ")
        assert found[key]["exact"] is True
        assert found[key]["summary"]
    assert found["verifier", "typical"]["exact"] is False
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"verifier +typical +lossy +racer-decoding [\d.]+ +typical acceptance", table)
    assert "\x1b" not in table


def test_broken_plugins_are_listed_with_the_reason(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("strategies", "racer.strategies", "racer"), EntryPoint("bad", "no_such_module", "racer")]
    monkeypatch.setattr(racer.discovery, "plugins", racer.discovery.Plugins(lambda: list(found)))
    assert main(["plugins", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == {
        "bad (no_such_module)": "ModuleNotFoundError: No module named 'no_such_module'"
    }
    assert main(["plugins"]) == 0
    assert re.search(r"broken +bad \(no_such_module\) +not loaded: ModuleNotFoundError", capsys.readouterr().out)
