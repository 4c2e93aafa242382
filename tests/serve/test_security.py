"""Keys and tenants, names, other sites' pages, and the headers of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import racer
from racer.errors import ConfigError
from racer.serve.settings import LOOPBACK, ServiceSettings
from support.serving import MESSAGES, Served, error_of, serving

CHAT = "/v1/chat/completions"
ORIGIN = {"Origin": "https://page.example"}
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def keyed(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    page = tmp_path_factory.mktemp("page")
    (page / "index.html").write_text("<!doctype html><script src=page/app.js></script>")
    (page / "app.js").write_text("let x")
    more = {"hosts": LOOPBACK, "page": page, "cors_origins": ("https://page.example",), "max_body": 5000}
    fixed = racer.DecodeConfig(budget=16)  # so that steps do not depend on the clock
    with serving(loaded, config=fixed, api_keys=("first-key", "second-key"), **more) as served:
        yield served


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Bearer first-key2", "Basic first-key", "Bearer \xe4", "first-key"]
)
def test_without_a_right_key_nothing_is_answered(header: str | None, keyed: Served) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("POST", "/tokenize"), ("POST", "/v1/completions")):
        answer = httpx.request(method, keyed.url + path, content=b"{", headers=headers)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/page/app.js"])
def test_some_paths_need_none(path: str, keyed: Served) -> None:
    assert httpx.get(keyed.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/page/%2e%2e/settings.py", "/page/..%2fsettings.py", "/page/"])
def test_the_pages_folder_is_all_there_is(path: str, keyed: Served) -> None:
    assert httpx.get(keyed.url + path).status_code == 404


def test_each_key_is_a_tenant(keyed: Served) -> None:
    """What one has said is neither kept nor drafted for the other."""
    fields = {"messages": [{"role": "user", "content": "tree " * 30}], "max_tokens": 40, "temperature": 0}

    def ask(key: str) -> dict[str, Any]:
        answer = keyed.client.post(CHAT, json=fields, headers={"Authorization": f"Bearer {key}"})
        return answer.json()

    first, again, other = ask("first-key"), ask("first-key"), ask("second-key")
    texts = {told["choices"][0]["message"]["content"] for told in (first, again, other)}
    assert len(texts) == 1
    cached = [told["usage"]["prompt_tokens_details"]["cached_tokens"] for told in (first, again, other)]
    assert cached[0] == cached[2] == 0 < cached[1]
    assert first["racer"]["accepted"] == other["racer"]["accepted"]
    assert again["racer"]["steps"] < other["racer"]["steps"], "what was learned helps its own tenant alone"
    told = keyed.error(CHAT, {**fields, "racer": {"tenant": "first-key"}})
    assert told["param"] == "racer.tenant"


def test_without_keys_requests_name_their_tenant(server: Served) -> None:
    fields = {"messages": [{"role": "user", "content": "fox " * 30}], "max_tokens": 2}

    def cached(tenant: str | None) -> int:
        told = server.chat(**fields, racer={"tenant": tenant})
        return told["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached("a") == 0
    assert cached("b") == cached(None) == 0
    assert cached("a") > 0


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 403), ("localhost:80", 200), ("[::1]:9", 200), ("", 403)]
)
def test_only_this_machines_names_where_only_it_shall_ask(host: str, status: int, keyed: Served) -> None:
    answer = httpx.get(keyed.url + "/health", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert error_of(answer)["code"] == "wrong_host"


def test_other_sites_pages_may_ask_if_they_are_named(keyed: Served, server: Served) -> None:
    answer = httpx.options(keyed.url + CHAT, headers={**ORIGIN, **ASKED})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert keyed.client.get("/v1/models", headers=ORIGIN).headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert httpx.get(keyed.url + "/v1/models", headers=ORIGIN).headers["access-control-allow-origin"], "refusals too"
    answer = httpx.options(keyed.url + CHAT, headers={"Origin": "https://other.example", **ASKED})
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-origin" not in server.client.get("/v1/models", headers=ORIGIN).headers, (
        "off by default"
    )


def test_a_body_has_a_limit_of_its_own(keyed: Served) -> None:
    told = keyed.error(CHAT, {"messages": MESSAGES, "user": "x" * 5000}, 413)
    assert "5000 bytes" in told["message"]


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/v1/models", "/nowhere"])
def test_headers_that_keep_strangers_out_of_the_page(path: str, keyed: Served) -> None:
    answer = keyed.client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert not any("unsafe" in value or "http" in value or "*" in value for value in policy.values())
    assert policy["frame-ancestors"] == "'none'"
    assert "/v1" in path or "nowhere" in path or answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_real_page_is_served(server: Served) -> None:
    page = Path(server.service.settings.page)
    assert server.client.get("/").text == (page / "index.html").read_text(encoding="utf-8")
    for file in page.iterdir():
        assert server.client.get(f"/page/{file.name}").content == file.read_bytes()


@pytest.mark.parametrize(
    "wrong", [{"api_keys": ("",)}, {"api_keys": ("ä",)}, {"api_keys": ("a", "a")}, {"timeout": 0}, {"max_body": -1}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServiceSettings(served_name="x", **wrong)
    assert "secret" not in repr(ServiceSettings(served_name="x", api_keys=("secret",)))
