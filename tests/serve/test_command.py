"""``racer serve`` as a program: it says where it is, answers, and stops when told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import racer.loading.extras
from racer.cli.serve_options import ServeOptions
from racer.serve.server import address_of, bind, is_loopback
from support.command import COMMAND, Capture, refused

QUICK = ["--device", "cpu", "--dtype", "fp32", "--port", "0"]


@pytest.fixture
def started(folder: Path) -> Iterator[Any]:
    """A server in a process of its own, and its address."""
    running = []

    def start(*options: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        command = [*COMMAND, "serve", "--model", str(folder), *QUICK, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=os.environ | environment, **pipes)
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("racer: serving "), process.stderr.read() if process.stderr else ""
        return process, line.split()[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_it_says_where_it_is_answers_and_drains(started: Any, folder: Path) -> None:
    process, url = started("--served-name", "fox", RACER_API_KEYS="one,two")
    body = {"messages": [{"role": "user", "content": "The quick brown fox"}], "max_tokens": 60, "model": "fox"}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 401
    headers = {"Authorization": "Bearer two"}
    answers = []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60))

    asking = threading.Thread(target=ask)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        asking.start()
        asking.join()
        process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]", "what had begun was let end"
    out, err = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    assert (out, err) == ("", "")
    assert answers[0].json()["model"] == "fox"


def test_ctrl_c_is_an_interrupt(started: Any, interruptible: None) -> None:
    process, url = started("--allowed-host", "Fox.example")
    for host, status in (("fox.example", 200), ("127.0.0.1:1", 200), ("dog.example", 403)):
        assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == status
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"].startswith("model")
    assert httpx.get(f"{url}/metrics").text.count("racer_submitted_total 0.0") == 1, "the warm-up is nobody's request"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--port", "70000"], "expected a port"),
        (["--port", "-1"], "expected a port"),
        (["--timeout", "0"], "seconds above 0"),
        (["--timeout", "nan"], "seconds above 0"),
        (["--api-key", ""], "printable ASCII"),
        (["--api-key", "a", "--api-key", "a"], "twice"),
        (["--cors-origin", "example.org"], "expected http://HOST"),
        (["--cors-origin", "http://example.org/"], "expected http://HOST"),
        (["--allowed-host", "example.org:80"], "without a port"),
        (["--allowed-host", "http://example.org"], "without a port"),
        (["--max-connections", "0"], "expected a whole number"),
        (["--served-name", " "], "expected printable text"),
        (["--log-level", "loud"], "loud"),
        (["--max-rows", "0"], "expected a whole number"),
        (["--drafter", "nobody"], "nobody"),
        (["--budget", "nobody"], "nobody"),
        (["--model", "./nowhere"], "nowhere"),
        (["--host", "nowhere.invalid"], "cannot listen"),
        (["--host", "a\0b"], "cannot listen"),
        (["--host", "x" * 5000], "cannot listen"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], told: str, capsys: Capture) -> None:
    assert told in refused(["serve", *options], capsys)


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(["serve", "--port", str(taken.getsockname()[1])], capsys)
    assert "cannot listen at '127.0.0.1'" in line


def test_without_its_libraries_it_says_what_to_install(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(racer.loading.extras.EXTRAS, "serve", ("not_there",))
    assert 'pip install "racer-decoding[serve]"' in refused(["serve"], capsys)


def test_keys_come_from_the_environment_unless_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    from racer.cli import serve as module

    seen: list[ServeOptions] = []
    monkeypatch.setattr("racer.cli.serving.run", seen.append)
    monkeypatch.setenv("RACER_API_KEYS", "a, b")
    module.serve.main([], standalone_mode=False)
    module.serve.main(["--api-key", "c"], standalone_mode=False)
    assert [options.api_key for options in seen] == [("a", "b"), ("c",)]
    assert "'a'" not in repr(seen[0])


def test_an_address_of_either_kind() -> None:
    for host in ("127.0.0.1", "localhost", "LocalHost", "127.1"):
        with bind(host, 0) as place:
            assert address_of(place).startswith("http://")
            assert is_loopback(place)
    with bind("0.0.0.0", 0) as place:
        assert not is_loopback(place)
    try:
        with bind("::1", 0) as place:
            assert address_of(place).startswith("http://[::1]:")
            assert is_loopback(place)
    except racer.RacerError:
        pytest.skip("this machine has no IPv6")
