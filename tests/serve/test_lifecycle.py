"""Requests whose clients go away, take too long, or come when there is no room or the server is being stopped."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from transformers import LogitsProcessor

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
        assert served.error(CHAT, LONG, 504)["code"] == "timeout"
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
        for fields in ({}, {"stream": True}, {"n": 3}):
            answer = served.post(CHAT, {**LONG, **fields})
            assert answer.status_code == 503
            assert error_of(answer)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) > 0
        assert [one.result().status_code for one in asked] == [200, 200]


def test_what_could_never_fit_is_refused(loaded: Any) -> None:
    with serving(loaded, {"max_tokens": 512}) as served:
        assert served.error(CHAT, {**LONG, "max_tokens": 900})["code"] == "context_length_exceeded"
        assert served.chat(max_tokens=20)["usage"]["completion_tokens"] == 20


def test_of_several_answers_none_goes_on_if_one_is_refused(slow: None, loaded: Any) -> None:
    with serving(loaded, {"max_rows": 1, "max_waiting": 2}) as served:
        assert served.post(CHAT, {**LONG, "n": 8}).status_code == 503
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


def test_threads_are_gone_with_the_server(loaded: Any) -> None:
    with serving(loaded) as served:
        served.chat(max_tokens=2)
        names = {thread.name for thread in threading.enumerate()}
        assert "racer-engine" in names
        before = sum(thread.name == "racer-engine" for thread in threading.enumerate())
    until(lambda: sum(thread.name == "racer-engine" for thread in threading.enumerate()) == before - 1)
