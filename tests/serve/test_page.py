"""The browser page, in a real browser and against the real server."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import racer
from racer.loading.loaded_model import LoadedModel
from racer.serve.settings import PAGE
from support.serving import Served, prompt_of, serving, solo, text_of

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("RACER_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"needs a browser: {', '.join(NAMES)} on the PATH, or RACER_CHROMIUM"
)
CIRCLES = "The quick brown fox"
"""A random model runs in circles on it, which can be drafted."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    """Open the page; at the end there must have been no error that the page did not show."""
    contexts: list[Any] = []
    faults: list[str] = []

    def visit(url: str, **context: Any) -> Page:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if "Content Security Policy" in told.text else None)
        page.on("request", lambda sent: None if sent.url.startswith(url) else faults.append(sent.url))
        page.goto(url + "/")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not faults


def send(page: Page, text: str, *, tokens: int = 40, wait: bool = True) -> None:
    set_field(page, "Max tokens", str(tokens))
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    if wait:
        finished(page)


def finished(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=20_000)


def set_field(page: Page, label: str, value: str) -> None:
    opened(page)
    page.get_by_label(label).fill(value)
    page.get_by_label(label).blur()


def opened(page: Page) -> None:
    if not page.get_by_label("Temperature").is_visible():
        page.get_by_text("Settings", exact=True).click()


def texts(page: Page) -> list[str]:
    """Of all answers, as they are."""
    return page.eval_on_selector_all(".answer .text", "found => found.map(one => one.textContent)")


def test_a_conversation(visit: Any, server: Served, loaded: LoadedModel) -> None:
    page = visit(server.url)
    expect(page.locator("#model")).to_have_text("tiny")
    send(page, "The quick brown fox")
    first = text_of(loaded, solo(loaded, prompt_of(loaded, "The quick brown fox"), 40))
    assert texts(page) == [first]
    expect(page.locator(".figures")).to_have_text(re.compile(r"^[\d.]+ tokens/s · [\d.]+ tokens a step · \d+ of \d+ "))
    expect(page.get_by_role("status")).to_contain_text("tokens/s")
    send(page, "and the dog?")
    said = [("user", "The quick brown fox"), ("assistant", first), ("user", "and the dog?")]
    prompt = loaded.encode([{"role": role, "content": text} for role, text in said])["input_ids"][0].tolist()
    assert texts(page) == [first, text_of(loaded, solo(loaded, prompt, 40))]
    page.get_by_role("button", name="Retry").click()
    finished(page)
    assert len(texts(page)) == 2
    assert texts(page)[1] == text_of(loaded, solo(loaded, prompt, 40))
    page.get_by_role("button", name="New chat").click()
    assert texts(page) == []
    set_field(page, "System prompt", "A tree")
    send(page, "The dog")
    said = [("system", "A tree"), ("user", "The dog")]
    prompt = loaded.encode([{"role": role, "content": text} for role, text in said])["input_ids"][0].tolist()
    assert texts(page) == [text_of(loaded, solo(loaded, prompt, 40))]


@pytest.fixture
def drafting(loaded: LoadedModel) -> Iterator[Served]:
    """A server that drafts whether it pays or not."""
    with serving(loaded, config=racer.DecodeConfig(budget=16)) as served:
        yield served


def test_accepted_drafts_are_highlighted(visit: Any, drafting: Served) -> None:
    page = visit(drafting.url)
    send(page, CIRCLES, tokens=300)
    drafted = page.locator(".answer .drafted").first
    background = "found => getComputedStyle(found).backgroundColor"
    assert drafted.evaluate(background) == "rgb(201, 239, 215)"
    assert page.locator(".answer .text span:not(.drafted)").first.evaluate(background) == "rgba(0, 0, 0, 0)"
    page.get_by_label("Highlight drafted text").uncheck()
    assert drafted.evaluate(background) == "rgba(0, 0, 0, 0)"
    page.reload()
    assert not page.get_by_label("Highlight drafted text").is_checked()  # it is remembered


def test_text_comes_as_a_stream_and_can_be_stopped(visit: Any, server: Served) -> None:
    page = visit(server.url)
    send(page, "The quick brown fox", tokens=900, wait=False)
    expect(page.locator(".figures")).to_contain_text("characters/s")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    length = len(texts(page)[0])
    page.wait_for_function("length => document.querySelector('.answer .text').textContent.length > length", arg=length)
    page.get_by_role("button", name="Stop").click()
    finished(page)
    expect(page.locator(".figures")).to_have_text("stopped")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false")
    server.idle()  # the server has stopped too
    send(page, "The dog", tokens=900, wait=False)
    expect(page.locator(".answer .text span").nth(1)).to_be_attached()
    page.keyboard.press("Escape")
    finished(page)
    assert len(texts(page)) == 2
    expect(page.locator(".error")).to_have_count(0)


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_comparing_with_plain_decoding(temperature: str, visit: Any, server: Served) -> None:
    page = visit(server.url)
    set_field(page, "Temperature", temperature)
    page.get_by_label("Compare with plain decoding").check()
    send(page, CIRCLES, tokens=120)
    drafted, plain = texts(page)
    assert drafted == plain
    expect(page.locator(".verdict")).to_have_text(re.compile(r"^[\d.]+. the speed of plain decoding; the texts are eq"))
    expect(page.get_by_role("heading", name="Plain decoding")).to_be_visible()
    assert page.locator(".answer").nth(1).locator(".drafted").count() == 0
    expect(page.locator(".figures").nth(1)).to_contain_text("1.00 tokens a step")


def test_a_server_that_goes_away_is_told(visit: Any, loaded: LoadedModel) -> None:
    with serving(loaded, drain=0.01) as served:
        page = visit(served.url)
        send(page, "The quick brown fox", tokens=900, wait=False)
        expect(page.locator(".answer .text span").first).to_be_attached()
        served.server.stop()
        finished(page)
        expect(page.get_by_role("alert")).to_have_text(re.compile("shutting down|went away"))
        assert texts(page)[0]
    send(page, "and now?")
    expect(page.get_by_role("alert").last).to_have_text("The server cannot be reached. Is it still running?")
    expect(page.get_by_role("button", name="Retry")).to_be_enabled()


def test_what_the_server_refuses_is_told(visit: Any, server: Served) -> None:
    page = visit(server.url)
    send(page, "a dog " * 1000)
    expect(page.get_by_role("alert")).to_contain_text("1024")
    send(page, "a dog")
    assert len(texts(page)[-1]) > 10  # the question that failed is not asked again
    set_field(page, "Temperature", "3")
    page.get_by_label("Message").fill("never sent")
    page.get_by_label("Message").press("Enter")
    assert page.get_by_label("Message").input_value() == "never sent"
    assert len(texts(page)) == 2


def test_a_key_is_asked_for_and_kept_in_the_tab(visit: Any, loaded: LoadedModel) -> None:
    with serving(loaded, api_keys=("secret",)) as served:
        page = visit(served.url)
        expect(page.locator("#model")).to_have_text("needs an API key: see the settings")
        send(page, "The dog")
        expect(page.get_by_role("alert")).to_contain_text("API key")
        expect(page.get_by_label("API key")).to_be_focused()
        set_field(page, "API key", "secret")
        expect(page.locator("#model")).to_have_text("tiny")
        page.get_by_role("button", name="Retry").click()
        finished(page)
        assert len(texts(page)[0]) > 10
        page.reload()
        assert page.locator("#api-key").input_value() == "secret"
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_and_dark_ones(scheme: str, visit: Any, server: Served) -> None:
    page = visit(server.url, viewport={"width": 400, "height": 700}, color_scheme=scheme)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Compare with plain decoding").check()
    send(page, "x" * 300, tokens=80)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 22)"}[scheme]
    boxes = [page.locator(".answer").nth(number).bounding_box() for number in range(2)]
    assert boxes[0]["x"] == boxes[1]["x"]  # one below the other


def test_markup_is_text(visit: Any, server: Served) -> None:
    page = visit(server.url)
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    send(page, markup)
    expect(page.locator(".question")).to_have_text(markup)
    assert page.locator("#log img, #log b").count() == 0
    scripts = "\n".join(file.read_text() for file in PAGE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
    assert "://" not in re.sub(r'xmlns="[^"]*"', "", "".join(file.read_text() for file in PAGE.iterdir()))


def test_everything_can_be_reached_by_keys_and_has_a_name(visit: Any, server: Served) -> None:
    page = visit(server.url)
    page.get_by_text("Settings", exact=True).click()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, textarea')].filter(one => !one.labels.length).map(one => one.id)"
    )
    assert unnamed == []
    page.locator("#new-chat").focus()
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["SUMMARY", "system", "temperature", "top-p", "max-tokens", "api-key", "highlight", "compare",
                       "question", "send", "BODY"]  # fmt: skip
    page.get_by_label("Message").fill("one")
    page.get_by_label("Message").press("Shift+Enter")
    assert page.get_by_label("Message").input_value() == "one\n"
