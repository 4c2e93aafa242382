"""The report as a page that needs nothing else, which no name and no missing figure breaks."""

from __future__ import annotations

import copy
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from racer.bench.report import charts, markdown, plots, write_report
from racer.bench.report.formats import DASH
from racer.bench.report.markdown import code, escape, fenced, plain
from racer.bench.report.reading import Run
from racer.bench.report.tables import Table
from racer.bench.report.templating import macros
from support.report_example import METHODS, example, holed, runs

HOSTILE = "<script>alert(`1`)</script> | **x** [a](http://b) \\| $e$ _u_"


VOID = {"meta", "br", "hr", "img"}


class Page(HTMLParser):
    """Reads a page, and fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]
        assert not any(name.startswith("on") for name in found)


def written(results: dict[str, Any], folder: Path) -> Page:
    """Write the report and check what must hold of every one."""
    write_report(results, folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text == markdown(results)
    assert len(text.split("\n|")) > 1
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    images = re.findall(r"^!\[[^]]*\]\((.*)\)$", text, flags=re.M)
    for image in images:
        ET.parse(folder / image)
    assert page.tags.count("svg") == len(images) == len(plots.available(Run(results)))
    return page


def test_the_page_has_every_section_and_plot(tmp_path: Path) -> None:
    page = written(example(), tmp_path)
    assert page.tags.count("h2") == (tmp_path / "report.md").read_text(encoding="utf-8").count("\n## ") == 13
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(f"{n}.svg" for n in plots.PLOTS)


def test_nothing_is_drawn_of_what_was_not_measured(tmp_path: Path) -> None:
    page = written(holed(example(("none", "racer"), ("qa",)), 1, random.Random(0)), tmp_path)
    assert "svg" not in page.tags
    assert "None" not in "".join(page.cells)


@pytest.mark.parametrize("results", [{}, {"setup": {}, "methods": {}, "failures": []}, {"methods": {"racer": {}}}])
def test_hardly_any_results(results: dict[str, Any], tmp_path: Path) -> None:
    written(results, tmp_path)


def test_names_stay_names(tmp_path: Path) -> None:
    results = example(("none", "hf", HOSTILE), (HOSTILE + "group", "qa"))
    results["setup"] |= {"model": HOSTILE, "command": f"racer bench ```\n# {HOSTILE}\n```", "platform": HOSTILE}
    results["failures"][0] |= {"question_id": [HOSTILE, 3], "error": "Error: |\n<b>\x1b[31m`\ud800``"}
    page = written(results, tmp_path)
    assert page.cells.count(HOSTILE) >= 8  # methods and settings, each cell the name and nothing else
    assert f"{HOSTILE}, 3" in page.cells
    assert "Error: | <b> [31m` ``" in page.cells
    assert page.tags.count("h1") == 1
    assert "em" not in page.tags


@given(st.text(max_size=30))
def test_any_name_survives_a_table(name: str) -> None:
    text = macros("macros.md.j2").table(Table(["method", "x"], [[code(name), escape(name)], ["a", "b"]]))
    page = Page(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
    assert page.cells == ["method", "x", plain(name) or DASH, plain(name) or DASH, "a", "b"]


@given(st.text(st.sampled_from("`~a \n"), max_size=30))
def test_any_command_stays_in_its_block(command: str) -> None:
    tokens = MarkdownIt().parse(fenced(command) + "\n\nafter")
    assert [token.type for token in tokens][:2] == ["fence", "paragraph_open"]


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_report(copy.deepcopy(example()), tmp_path / name)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_method_has_one_colour() -> None:
    look = charts.colours(Run(example()))
    assert len(set(look.values())) == len(METHODS)
    for name in ("speedup", "depth", "cost", "reliability"):
        assert look["racer"] in plots.draw(Run(example()), name)


def test_plots_know_dark_pages_and_keep_text() -> None:
    picture = plots.draw(Run(example(groups=("质量", "$a$"))), "speedup")
    assert "prefers-color-scheme: dark" in picture
    assert ">质量</text>" in picture
    assert ">$a$</text>" in picture


@pytest.mark.parametrize("name", [" ", "_fast", "none"])
def test_a_plot_names_every_method(name: str) -> None:
    run = Run(example(methods=(name,)))
    for plot in set(plots.available(run)) - {"time"}:
        assert f">{name.strip() or DASH}</text>" in plots.draw(run, plot)


@settings(max_examples=6, deadline=None)
@given(runs)
def test_any_results_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, results: dict[str, Any]) -> None:
    written(results, tmp_path_factory.mktemp("run"))
