"""From requests to jobs: what the engine is to decode, and how its text is read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import attrs

from racer.loading.loaded_model import LoadedModel
from racer.serve import prompts
from racer.serve.errors import invalid
from racer.serve.grammar import ANY_OBJECT, of_schema
from racer.serve.protocol.chat import ChatRequest, Tool
from racer.serve.protocol.completions import DEFAULT_LIMIT, CompletionRequest
from racer.serve.protocol.fields import Generation, ResponseFormat
from racer.serve.tools import (
    ForcedReader,
    PlainReader,
    Reader,
    TaggedReader,
    forced_grammar,
    frames,
    has_tags,
    special_tags,
)


@attrs.frozen(kw_only=True)
class Job:
    """A request that is understood."""

    body: Generation
    prompts: Sequence[Sequence[int]]
    limit: int | None
    """Most new tokens of each answer, where it is asked for."""
    default: int | None = None
    """What they are else; None: the server's default."""
    scores: int | None = None
    """The most likely tokens to report for each token; None: no scores."""
    grammar: str | None = None
    """What the text must follow."""
    reader: Callable[[], Reader] = PlainReader
    goes_on: bool = False
    """Whether answers go on from the prompt's text."""
    shown: Mapping[int, str] = attrs.field(factory=dict)
    """Special tokens that the reader must see as text."""
    tenant: Hashable = None


def of_chat(loaded: LoadedModel, body: ChatRequest, tenant: Hashable) -> Job:
    """What a chat asks for.

    :raises ApiError: its fields contradict each other, or it cannot be had.
    """
    _check(loaded, body)
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("'top_logprobs' is only allowed where 'logprobs' is true.", "top_logprobs")
    offered = _offered(body)
    grammar = _format(body.response_format)
    reader: Callable[[], Reader] = PlainReader
    template = str(loaded.tokenizer.chat_template or "")
    if offered and grammar is not None:
        raise invalid("'response_format' leaves no room for tool calls: leave one of them out.", "response_format")
    choice = body.tool_choice
    if choice is not None and choice.forces:
        allowed = frames(offered, choice.name, template)
        if not allowed:
            raise invalid("'tool_choice' names no function of 'tools'.", "tool_choice")
        grammar, reader = forced_grammar(offered, allowed), partial(ForcedReader, allowed)
    elif offered and has_tags(template):
        reader = partial(TaggedReader, offered, one=body.parallel_tool_calls is False)
    prompt = prompts.of_conversation(loaded, body.messages, offered)
    return Job(
        body=body,
        prompts=[prompt],
        limit=body.limit,
        scores=body.scores,
        grammar=grammar,
        reader=reader,
        goes_on=loaded.goes_on(raw=False),
        shown=special_tags(loaded.tokenizer) if offered and has_tags(template) else {},
        tenant=tenant,
    )


def of_completion(loaded: LoadedModel, body: CompletionRequest, tenant: Hashable) -> Job:
    """What a completion asks for.

    :raises ApiError: a prompt has tokens that the model has not got, or the format cannot be had.
    """
    _check(loaded, body)
    if body.best_of not in (None, body.answers):
        raise invalid("'best_of' is not supported by this server: leave it out.", "best_of", "unsupported_parameter")
    given = [
        prompts.of_text(loaded, prompt) if isinstance(prompt, str) else prompts.of_ids(loaded, prompt, "prompt")
        for prompt in body.prompt
    ]
    grammar = _format(body.response_format)
    return Job(
        body=body,
        prompts=given,
        limit=body.max_tokens,
        default=DEFAULT_LIMIT,
        scores=body.scores,
        grammar=grammar,
        goes_on=True,
        tenant=tenant,
    )


def _check(loaded: LoadedModel, body: Generation) -> None:
    size = loaded.model.config.get_text_config().vocab_size
    if wrong := [token for token in body.logit_bias or {} if token >= size]:
        raise invalid(f"{wrong[0]} is no token of this model: there are {size}, from 0 on.", "logit_bias")
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' is only allowed where 'stream' is true.", "stream_options")


def _offered(body: ChatRequest) -> list[Tool]:
    """The tools that the model is told of."""
    choice = body.tool_choice
    if choice is not None and choice.mode == "none":
        return []
    if choice is not None and choice.forces and not body.tools:
        raise invalid("'tool_choice' is only allowed where there are 'tools'.", "tool_choice")
    return body.tools or []


def _format(asked: ResponseFormat | None) -> str | None:
    """The grammar of a text in that format."""
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return of_schema(ANY_OBJECT)
    schema = asked.json_schema.schema_ if asked.json_schema else None
    if schema is None:
        place = "response_format.json_schema.schema"
        raise invalid(f"You must provide '{place}'.", place, "missing_required_parameter")
    return of_schema(schema)
