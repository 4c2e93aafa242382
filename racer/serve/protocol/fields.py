"""What requests for chat and for plain completions have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from racer.config import MAX_BUDGET
from racer.loading.detokenizer import LONGEST_STOP

MOST_STOPS = 16
MOST_ANSWERS = 128


class Body(BaseModel):
    """A JSON object: no field that nobody knows, no text for a number, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _refuse(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError("unsupported_parameter", "is not supported by this server: leave it out")
    return value


NotDone = Annotated[Any, BeforeValidator(_refuse)]
"""A field of OpenAI's that would change the answer, and that this server does not do."""
Ignored = Any
"""A field of OpenAI's that changes nothing about the answer here."""


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list | None):
        raise PydanticCustomError("stops", "expected a text or a list of texts")
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
    Field(max_length=MOST_STOPS),
    BeforeValidator(_as_list),
]


def _bias(value: Any) -> Any:
    """Token ids come as the names of JSON's fields."""
    if not isinstance(value, dict):
        return value
    try:
        return {int(token): bias for token, bias in value.items()}
    except ValueError:
        raise PydanticCustomError("bias_keys", "its keys must be token ids") from None


Bias = Annotated[
    dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_bias),
]


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class JsonSchema(Body):
    """A schema for the answer, and its name."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class RacerFields(Body):
    """RACER's own: how to draft, and for whom."""

    draft: bool = True
    """Whether to draft at all."""
    budget: Annotated[int, Field(ge=1, le=MAX_BUDGET)] | None = None
    """Most tree nodes a step."""
    show_drafted: bool = False
    """Whether each streamed chunk says if its text was drafted."""
    tenant: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Whose text this is: nothing learned from it is drafted to others."""

    @property
    def most_nodes(self) -> int | None:
        """What the engine is told."""
        return self.budget if self.draft else 1


class Generation(Body):
    """Fields of both."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=10)] | None = None
    logit_bias: Bias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: ResponseFormat | None = None
    racer: RacerFields | None = None
    user: Ignored = None

    @property
    def answers(self) -> int:
        """How many answers are asked for, of each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def own(self) -> RacerFields:
        """RACER's fields, given or not."""
        return self.racer or RacerFields()

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
