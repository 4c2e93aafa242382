"""Figures add up, whatever became of the requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.serving import MESSAGES, serving


def test_figures_add_up(loaded: Any) -> None:
    with serving(loaded) as served, ThreadPoolExecutor(4) as pool:
        fields = [
            {"max_tokens": 20}, {"max_tokens": 30, "temperature": 1, "n": 3}, {"max_tokens": 1},
            {"max_tokens": 25, "racer": {"draft": False}}, {"max_tokens": 40, "stop": "e"}, {"max_tokens": 20},
        ]  # fmt: skip
        told = list(pool.map(lambda one: served.chat(**one), fields))
        served.error("/v1/chat/completions", {"messages": []})
        served.client.get("/v1/nothing")
        body = {"messages": MESSAGES, "max_tokens": 900, "temperature": 0, "racer": {"draft": False}}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + "/v1/chat/completions", json=body, timeout=0.2)
        served.idle()
        figures, usages = served.metrics(), [one["usage"] for one in told]
        engine = served.service.engine.figures()

    def total(name: str) -> float:
        return figures[f"racer_{name}_total"]

    assert total("submitted") == 9 == total("finished") + total("cancelled") + total("failed")
    assert total("failed") == 0
    whole = sum(usage["completion_tokens"] for usage in usages)
    cut_short = total("new_tokens") - whole
    assert 0 <= cut_short < 900
    assert total("new_tokens") == engine.new_tokens
    in_steps = total("new_tokens") - figures["racer_time_to_first_token_seconds_count"]  # the prompt's pass gives one
    assert total("row_steps") == figures["racer_accepted_tokens_per_step_count"]
    assert total("accepted_tokens") == figures["racer_accepted_tokens_per_step_sum"]
    # a step gives what was accepted, and one more, but for the last one of a text that ends with an accepted token
    stopped = sum(choice["finish_reason"] == "stop" for one in told for choice in one["choices"])
    assert 0 <= total("row_steps") + total("accepted_tokens") - in_steps <= stopped
    details = [usage["completion_tokens_details"] for usage in usages]
    assert total("accepted_tokens") == sum(one["accepted_prediction_tokens"] for one in details)
    assert total("drafted_tokens") == sum(sum(one.values()) for one in details)
    assert total("steps") == figures["racer_step_seconds_count"] <= total("row_steps")
    assert figures["racer_request_seconds_count"] == total("submitted")
    assert total("prompt_tokens") >= sum(usage["prompt_tokens"] for usage in usages)
    assert total("cached_prompt_tokens") >= sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert figures["racer_requests_running"] == figures["racer_requests_waiting"] == figures["racer_cache_tokens"] == 0
    by_status = {name: value for name, value in figures.items() if name.startswith("racer_http_requests_total")}
    chat = 'racer_http_requests_total{endpoint="/v1/chat/completions",status="%d"}'
    assert (by_status[chat % 200], by_status[chat % 400], by_status[chat % 499]) == (6, 1, 1)
    assert by_status['racer_http_requests_total{endpoint="other",status="404"}'] == 1


def test_prometheus_can_read_it(loaded: Any) -> None:
    with serving(loaded) as served:
        served.chat(max_tokens=3)
        answer = served.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        for family in families.values():
            assert family.documentation
        assert families["racer_new_tokens"].samples[0].value == 3
        assert {family.name for family in families.values() if family.type == "histogram"} == {
            "racer_step_seconds", "racer_accepted_tokens_per_step", "racer_queue_seconds",
            "racer_time_to_first_token_seconds", "racer_request_seconds",
        }  # fmt: skip
