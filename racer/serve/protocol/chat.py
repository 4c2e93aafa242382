"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from racer.serve.protocol.fields import Body, Generation, Ignored, NotDone

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(Body):
    """A piece of a message; of images, sound and files there are none."""

    type: Literal["text"]
    text: str


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content = Annotated[list[TextPart], BeforeValidator(_parts)]


class CalledFunction(Body):
    """A function, and its arguments as JSON."""

    name: FunctionName
    arguments: str


class ToolCall(Body):
    """A call that the model made in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Ignored = None


class Message(Body):
    """One of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: NotDone = None
    function_call: NotDone = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or ())


class Function(Body):
    """What may be called."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Ignored = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


def _choice(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


class ToolChoice(Body):
    """``none``, ``auto``, ``required``, or a function's name."""

    mode: Literal["none", "auto", "required"] | None = None
    type: Literal["function"] | None = None
    function: NamedFunction | None = None

    @property
    def forces(self) -> bool:
        """Whether a tool must be called."""
        return self.mode == "required" or self.function is not None

    @property
    def name(self) -> str | None:
        """Which one, where it is named."""
        return None if self.function is None else self.function.name


class ChatRequest(Generation):
    """A conversation to be continued."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Annotated[ToolChoice, BeforeValidator(_choice)] | None = None
    modalities: list[Literal["text"]] | None = None

    parallel_tool_calls: bool | None = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    prediction: Ignored = None

    audio: NotDone = None
    functions: NotDone = None
    function_call: NotDone = None
    reasoning_effort: NotDone = None
    verbosity: NotDone = None
    web_search_options: NotDone = None

    @property
    def limit(self) -> int | None:
        """Most new tokens, where they are limited."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def scores(self) -> int | None:
        """How many likely tokens to report for each token; None for no report."""
        return (self.top_logprobs or 0) if self.logprobs else None
