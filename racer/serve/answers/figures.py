"""What an answer took: OpenAI's usage, and RACER's own figures."""

from __future__ import annotations

from typing import Any

from racer.serve.answer import Answer


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens. A prompt counts once, however many answers it has; the end token is one of the answer's."""
    ended = answer.completions
    new = sum(len(completion.tokens) for completion in ended)
    drafted, accepted = _drafted(answer)
    first_of_prompt = ended[:: max(1, answer.answers_of_prompt)]
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": answer.prompt_tokens + new,
        "prompt_tokens_details": {"cached_tokens": sum(completion.cached_tokens for completion in first_of_prompt)},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def figures(answer: Answer) -> dict[str, Any]:
    """How fast it came, and what drafting did for it. The time is that from the first prompt's beginning on."""
    ended = answer.completions
    drafted, accepted = _drafted(answer)
    new = sum(len(completion.tokens) for completion in ended)
    seconds = max((completion.seconds for completion in ended), default=0.0)
    waited = min((completion.queued_seconds for completion in ended if completion.tokens), default=0.0)
    stats = [completion.stats for completion in ended if completion.stats is not None]
    in_steps = sum(sum(row) for one in stats for row in one.accept_lengths)
    steps = sum(one.steps for one in stats)
    return {
        "tokens_per_second": new / (seconds - waited) if seconds > waited else None,
        "mean_accepted_tokens": in_steps / steps if steps else None,
        "drafted": drafted,
        "accepted": accepted,
        "steps": steps,
    }


def _drafted(answer: Answer) -> tuple[int, int]:
    """Guessed tokens, and those of them that became text."""
    stats = [completion.stats for completion in answer.completions if completion.stats is not None]
    return sum(one.drafted.total() for one in stats), sum(one.accepted.total() for one in stats)
