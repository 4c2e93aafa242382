"""Requests whose clients go away, take too long, or come when there is no room or the server is being stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from transformers import LogitsProcessor

from racer.errors import EngineClosed
from racer.serve.errors import failed
from support.serving import MESSAGES, Served, error_of, serving, until

CHAT = "/v1/chat/completions"
LONG = {"messages": MESSAGES, "max_tokens": 900, "temperature": 0, "racer": {"draft": False}}


class Slow(LogitsProcessor):
    """Takes its time."""

    racer_row_wise = True

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        time.sleep(0.02)
        return scores


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token takes a while, so that nothing ends before the test does something."""
    from racer.serve import sampling

    before = sampling.penalties
    monkeypatch.setattr(sampling, "penalties", lambda *given: [*before(*given), Slow()])


def running(served: Served) -> int:
    return served.service.engine.figures().running


def test_a_stream_whose_client_goes_away_frees_its_row(slow: None, loaded: Any) -> None:
    with serving(loaded) as served:
        with served.client.stream("POST", CHAT, json={**LONG, "stream": True, "n": 2}) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            assert json.loads(next(lines).removeprefix("data: "))["choices"]
            until(lambda: running(served) == 2)
        until(lambda: running(served) == 0, 5)
        served.idle()
        figures = served.service.engine.figures()
        assert (figures.cancelled, figures.finished) == (2, 0)
        assert figures.new_tokens < 500
        assert served.chat(max_tokens=3)["usage"]["completion_tokens"] == 3


def test_so_does_a_whole_answers(slow: None, loaded: Any) -> None:
    with serving(loaded) as served:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + CHAT, json=LONG, timeout=0.5)
        until(lambda: running(served) == 0, 5)
        served.idle()
        assert served.service.engine.figures().cancelled == 1
        assert served.metrics()['racer_http_requests_total{endpoint="/v1/chat/completions",status="499"}'] == 1


def test_an_answer_that_takes_too_long_is_ended(slow: None, loaded: Any) -> None:
    with serving(loaded, timeout=0.6) as served:
        whole = served.post(CHAT, LONG)
        assert (whole.status_code, error_of(whole)["code"]) == (504, "timeout")
        assert whole.headers["x-should-retry"] == "false", "OpenAI's clients would ask again, and wait as long"
        with served.client.stream("POST", CHAT, json={**LONG, "stream": True}) as answer:
            *_, last = [line for line in answer.iter_lines() if line.startswith("data: ")]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        until(lambda: running(served) == 0, 5)


def test_where_there_is_no_room_a_client_is_told_when_to_come_again(slow: None, loaded: Any) -> None:
    with serving(loaded, {"max_rows": 1, "max_waiting": 1}) as served, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(httpx.post, served.url + CHAT, json={**LONG, "max_tokens": 60}, timeout=60)]
        until(lambda: running(served) == 1)
        asked.append(pool.submit(httpx.post, served.url + CHAT, json={**LONG, "max_tokens": 5}, timeout=60))
        until(lambda: served.service.engine.figures().waiting == 1)
        for fields in ({}, {"stream": True}):
            answer = served.post(CHAT, {**LONG, **fields})
            assert answer.status_code == 503
            assert error_of(answer)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) > 0
        assert [one.result().status_code for one in asked] == [200, 200]


def test_what_could_never_fit_is_refused(loaded: Any) -> None:
    with serving(loaded, {"max_tokens": 512}) as served:
        assert served.error(CHAT, {**LONG, "max_tokens": 900})["code"] == "context_length_exceeded"
        assert served.chat(max_tokens=20)["usage"]["completion_tokens"] == 20


def test_where_no_length_is_asked_for_it_is_what_there_is_room_for(loaded: Any) -> None:
    with serving(loaded, {"max_tokens": 100}) as served:
        usage = served.chat()["usage"]
        assert usage["total_tokens"] == 100
        usage = served.complete(prompt=[5] * 90)["usage"]
        assert usage["completion_tokens"] == 10
        assert served.complete(prompt=[5] * 9)["usage"]["completion_tokens"] == 16
        assert served.error("/v1/completions", {"prompt": [5] * 100})["code"] == "context_length_exceeded"


def test_more_answers_than_may_wait_can_never_be_had(slow: None, loaded: Any) -> None:
    with serving(loaded, {"max_rows": 1, "max_waiting": 3}) as served:
        for path, fields in ((CHAT, {**LONG, "n": 4}), ("/v1/completions", {"prompt": ["a", "b"], "n": 2})):
            told = served.error(path, {**fields, "max_tokens": 1})
            assert (told["param"], told["code"]) == ("n", "too_many_answers")
        assert served.service.engine.figures().submitted == 0
        assert len(served.chat(n=3, max_tokens=1)["choices"]) == 3


def test_of_several_answers_none_goes_on_if_one_is_refused(slow: None, loaded: Any) -> None:
    with serving(loaded, {"max_rows": 1, "max_waiting": 8}) as served, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, served.url + CHAT, json={**LONG, "max_tokens": 60, "n": 4}, timeout=60)
        until(lambda: served.service.engine.figures().waiting == 3)
        assert served.post(CHAT, {**LONG, "n": 8}).status_code == 503
        assert first.result().status_code == 200
        until(lambda: not running(served) and not served.service.engine.figures().waiting, 5)


def test_told_to_stop_it_lets_what_runs_end(slow: None, loaded: Any) -> None:
    with serving(loaded, drain=20) as served, ThreadPoolExecutor(2) as pool:
        asked = {**LONG, "max_tokens": 40}
        whole = pool.submit(httpx.post, served.url + CHAT, json=asked, timeout=60)
        stream = pool.submit(httpx.post, served.url + CHAT, json={**asked, "stream": True}, timeout=60)
        with httpx.Client(base_url=served.url) as kept:
            assert kept.get("/health").status_code == 200
            until(lambda: running(served) == 2)
            served.service.close()
            assert kept.get("/health").status_code == 503
            answer = kept.post(CHAT, json=asked)
            assert (answer.status_code, error_of(answer)["code"]) == (503, "shutting_down")
            served.server.stop()
        assert whole.result().json()["usage"]["completion_tokens"] == 40
        assert stream.result().text.rstrip().endswith("data: [DONE]")


def test_what_does_not_end_in_time_is_told_so(slow: None, loaded: Any) -> None:
    with serving(loaded, drain=0.5) as served, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(httpx.post, served.url + CHAT, json=LONG, timeout=60)
        stream = pool.submit(httpx.post, served.url + CHAT, json={**LONG, "stream": True}, timeout=60)
        until(lambda: running(served) == 2)
        begun = time.monotonic()
        served.server.stop()
        assert (whole.result().status_code, error_of(whole.result())["code"]) == (503, "shutting_down")
        last = stream.result().text.rstrip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert time.monotonic() - begun < 10


def test_a_request_that_fails_takes_no_other_along(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(LogitsProcessor):
        racer_row_wise = True

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if input_ids.shape[1] > 30:
                raise RuntimeError("a grammar that gives up")
            time.sleep(0.01)
            return scores

    from racer.serve import sampling

    before = sampling.penalties
    with serving(loaded) as served, ThreadPoolExecutor(1) as pool:
        expected = served.chat(max_tokens=80)["choices"]
        monkeypatch.setattr(sampling, "penalties", lambda *given: [*before(*given), Broken()])
        broken = pool.submit(httpx.post, served.url + CHAT, json={**LONG, "stream": True}, timeout=60)
        until(lambda: running(served) == 1)
        monkeypatch.undo()
        assert served.chat(max_tokens=80)["choices"] == expected
        last = broken.result().text.rstrip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert "gives up" not in broken.result().text


def test_a_failed_engine_says_so(
    loaded: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(loaded) as served:
        monkeypatch.setattr(logging.getLogger("racer"), "propagate", True)  # a server has seen to it otherwise
        served.service.engine._scheduler.give_up(RuntimeError("no memory"))
        for _ in range(2):
            answer = served.post(CHAT, LONG)
            assert (answer.status_code, error_of(answer)["code"]) == (503, "engine_failed")
        assert error_of(served.client.get("/health"))["code"] == "engine_failed"
        assert caplog.text.count("the engine has failed") == 1
        broken = EngineClosed("the engine has failed: RuntimeError: no memory")
        broken.__cause__ = RuntimeError("no memory")
        assert failed(broken).fields["code"] == "engine_failed"


# -- clients that are slow, or say nothing ----------------------------------------------------------------------------


class Client:
    """What a server knows of a client: its request, and whether it reads the answer.

    :param gone: whether it goes away at once.
    """

    def __init__(self, body: dict[str, Any], *, reads: int, gone: bool) -> None:
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self._reads, self._gone = reads, gone
        self.got: list[Any] = []

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        if not self._gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.got) == self._reads:
            await asyncio.Event().wait()
        self.got.append(message)

    def ask(self, served: Served) -> None:
        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
                 "headers": headers, "scheme": "http", "http_version": "1.1", "root_path": "", "client": ("a", 1),
                 "server": ("localhost", 1)}  # fmt: skip
        app: Any = served.server.config.app
        asyncio.run(asyncio.wait_for(app(scope, self.receive, self.send), 20))


def test_a_stream_that_nobody_reads_is_ended(slow: None, loaded: Any) -> None:
    with serving(loaded, timeout=1.0) as served:
        client = Client({**LONG, "stream": True}, reads=4, gone=False)
        client.ask(served)
        assert len(client.got) == 4
        until(lambda: running(served) == 0, 5)


def test_a_stream_that_never_begins_is_ended(slow: None, loaded: Any) -> None:
    with serving(loaded) as served:
        client = Client({**LONG, "stream": True}, reads=0, gone=True)
        client.ask(served)
        until(lambda: running(served) == 0, 5)
        assert served.service.engine.figures().new_tokens < 500


def test_a_body_that_does_not_come_is_not_waited_for(loaded: Any) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(loaded, timeout=0.5, max_body=1000) as served:
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        for length in (100, 5000):  # the second is refused, and waited for all the same
            with socket.create_connection(address, 10) as slow:
                slow.sendall(f"{head}Content-Length: {length}\r\n\r\n{{".encode())
                told = slow.makefile().read()
                assert told.startswith("HTTP/1.1 408 ")
                assert '"code":"body_timeout"' in told


def test_connections_have_a_limit(loaded: Any) -> None:
    with serving(loaded, max_connections=2) as served:
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with socket.create_connection(address), socket.create_connection(address):
            until(lambda: httpx.get(served.url + "/health").status_code == 503)
        until(lambda: httpx.get(served.url + "/health").status_code == 200)
        with socket.create_connection(address):
            assert httpx.get(served.url + "/health").status_code == 200, "as many as that are taken"


def test_threads_are_gone_with_the_server(loaded: Any) -> None:
    with serving(loaded) as served:
        served.chat(max_tokens=2)
        names = {thread.name for thread in threading.enumerate()}
        assert "racer-engine" in names
        before = sum(thread.name == "racer-engine" for thread in threading.enumerate())
    until(lambda: sum(thread.name == "racer-engine" for thread in threading.enumerate()) == before - 1)
