"""One call of ``generate`` as transformers makes it and as RACER makes it, and what may differ between the two."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import torch
from transformers import Cache
from transformers.utils import ModelOutput

import racer
from racer import DecodeConfig
from racer.hf.generate import PlainDecodingWarning
from support.generate_models import PAD, fresh

LOGITS = DecodeConfig(drafter="logits", budget=12)
NONE = DecodeConfig(drafter="none")
TIE = 1e-4
"""Two scores nearer than this are a tie in float32: transformers narrows all logits to it."""


@attrs.define(frozen=True)
class Drafted:
    """Ours drafts, and says nothing."""


@attrs.define(frozen=True)
class Plain:
    """Ours is decoded by transformers, with one warning that gives this reason."""

    reason: str


@attrs.define(frozen=True)
class Either:
    """Drafted, or plain with this reason; where transformers raises, so do we."""

    reason: str = ""


@attrs.define(frozen=True)
class Raises:
    """transformers raises this, and so do we."""

    error: type[BaseException]
    message: bool = True
    """Whether the text must be the same, too."""


@attrs.define(repr=False)
class Outcome:
    """What came of one call."""

    value: Any
    error: BaseException | None
    reasons: list[str]
    """The texts of the :class:`racer.PlainDecodingWarning`."""
    given: dict[str, Any]
    """The arguments after the call: streamers, processors and caches have changed."""

    def __repr__(self) -> str:
        shown = repr(self.error) if self.error else shape_of(self.value)
        return f"{shown}{' [plain: ' + '; '.join(self.reasons) + ']' if self.reasons else ''}"


Call = Callable[..., Any]


def call(function: Call, how: dict[str, Any], args: tuple[Any, ...] = (), seed: int = 11) -> Outcome:
    """Call ``function`` with copies of the arguments; torch's generator starts at ``seed``."""
    given, args = fresh(how), tuple(fresh(dict(enumerate(args))).values())  # type: ignore[arg-type]
    torch.manual_seed(seed)
    value: Any = None
    error: BaseException | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*args, **given)
        except Exception as raised:
            error = raised
    reasons = [str(item.message) for item in caught if issubclass(item.category, PlainDecodingWarning)]
    return Outcome(value, error, reasons, given)


def faces(model: Any, attached: Any, config: DecodeConfig = LOGITS) -> dict[str, Call]:
    """The three ways to RACER.

    :param attached: a model equal to ``model``, attached with ``config``.
    """
    return {
        "racer.generate": lambda *args, **how: racer.generate(model, *args, config=config, **how),
        "attached": lambda *args, **how: attached.generate(*args, **how),
        "custom": lambda *args, **how: model.generate(
            *args, **how, custom_generate=racer.custom_generate, racer_config=config
        ),
    }


def judge(plain: Outcome, ours: Outcome, expected: Drafted | Plain | Either | Raises) -> None:
    """Ours is plain's, and came about as expected.

    :raises AssertionError: it is not, or did not.
    """
    assert len(ours.reasons) <= 1, f"more than one warning: {ours.reasons}"
    if isinstance(expected, Raises):
        assert plain.error is not None, f"transformers does not raise: {plain}"
        assert isinstance(plain.error, expected.error)
    elif not isinstance(expected, Either):
        assert plain.error is None, f"transformers raises: {plain}"
    if plain.error is not None:
        same_error(plain.error, ours, not isinstance(expected, Raises) or expected.message)
    else:
        assert ours.error is None, f"ours raises {ours.error!r}, plain gives {shape_of(plain.value)}"
        same_value(plain.value, ours.value, "output")
        same_witnesses(plain.given, ours.given)
    if isinstance(expected, Drafted):
        assert not ours.reasons, f"needlessly plain: {ours.reasons}"
    if isinstance(expected, Plain):
        assert ours.reasons, "decoded by RACER; expected plain decoding"
    if isinstance(expected, Plain | Either) and ours.reasons:
        assert re.search(expected.reason, ours.reasons[0]), f"the reason {expected.reason!r} is not in {ours.reasons}"


def same_error(error: BaseException, ours: Outcome, message: bool) -> None:
    assert ours.error is not None, f"plain raises {error!r}, ours gives {shape_of(ours.value)}"
    assert type(ours.error) is type(error), f"plain raises {error!r}, ours {ours.error!r}"
    if message:
        assert str(ours.error) == str(error)


def same_value(plain: Any, ours: Any, name: str) -> None:
    """Equal types, shapes and values; fields beyond transformers' own may be there."""
    if isinstance(plain, ModelOutput):
        assert isinstance(ours, type(plain)), f"{name}: {type(plain).__name__} became {type(ours).__name__}"
        for field in vars(plain).keys() - {"racer_stats"}:
            theirs, mine = getattr(plain, field), getattr(ours, field)
            if field in ("scores", "logits") and isinstance(theirs, tuple) and isinstance(mine, tuple):
                theirs = of_emitted_tokens(theirs, mine, plain.sequences)
            same_value(theirs, mine, f"{name}.{field}")
    elif isinstance(plain, tuple):
        assert isinstance(ours, tuple), f"{name}: a tuple became {shape_of(ours)}"
        assert len(ours) == len(plain), f"{name}: {len(plain)} items became {len(ours)}"
        for place, (one, other) in enumerate(zip(plain, ours, strict=True)):
            same_value(one, other, f"{name}[{place}]")
    elif isinstance(plain, Cache):
        same_cache(plain, ours, name)
    elif isinstance(plain, torch.Tensor):
        assert isinstance(ours, torch.Tensor), f"{name}: {shape_of(plain)} became {shape_of(ours)}"
        assert (ours.dtype, ours.shape, ours.device) == (plain.dtype, plain.shape, plain.device), (
            f"{name}: {shape_of(plain)} became {shape_of(ours)}"
        )
        if plain.is_floating_point():
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4, equal_nan=True, msg=lambda m: f"{name}: {m}")
        else:
            differ = "; ".join(
                f"row {row}: plain {one.tolist()}, ours {other.tolist()}"
                for row, (one, other) in enumerate(zip(plain, ours, strict=True))
                if not torch.equal(one, other)
            )
            assert not differ, f"{name}: {differ}"
    else:
        assert type(ours) is type(plain), f"{name}: {type(plain).__name__} became {type(ours).__name__}"
        assert ours == plain, f"{name}: {plain!r} became {ours!r}"


def of_emitted_tokens(
    plain: tuple[torch.Tensor, ...], ours: tuple[torch.Tensor, ...], sequences: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Plain's scores with zeros behind the end of a row that ended before others, where ours are documented to be 0."""
    expected = [place.clone() for place in plain]
    for at, (theirs, mine) in enumerate(zip(expected, ours, strict=False)):
        for row, text in enumerate(sequences[:, sequences.shape[1] - len(plain) :]):
            if not mine[row].any() and bool((text[at:] == PAD).all()):
                theirs[row] = 0
    return tuple(expected)


def same_cache(plain: Cache, ours: Any, name: str) -> None:
    assert type(ours) is type(plain), f"{name}: {type(plain).__name__} became {type(ours).__name__}"
    assert ours.get_seq_length() == plain.get_seq_length(), f"{name}: other length"
    assert len(ours.layers) == len(plain.layers)
    for mine, theirs in zip(ours.layers, plain.layers, strict=True):
        assert type(mine) is type(theirs)
        same_value(theirs.keys, mine.keys, f"{name}.keys")
        same_value(theirs.values, mine.values, f"{name}.values")


def same_witnesses(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    """What the caller holds afterwards: a streamer's record, a filled cache."""
    for name, value in plain.items():
        if hasattr(value, "got"):
            assert ours[name].got == value.got, f"{name} got\nplain {value.got}\nours  {ours[name].got}"
        if isinstance(value, Cache):
            same_cache(value, ours[name], name)


def shape_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__name__


def tie(model: Any, plain: torch.Tensor, ours: torch.Tensor, mask: torch.Tensor | None, prompt: int) -> bool:
    """Whether each row's first difference stands where the model's two tokens are as good as equal.

    Holds for greedy calls without processors: it looks at the model's own logits.

    :param plain: ``[B, P + n]``, as is ``ours``; of unequal length they are compared as far as both go.
    :param mask: ``[B, P]``, 0 at padding.
    :param prompt: P.
    """
    width = min(plain.shape[1], ours.shape[1])
    for row in range(len(plain)):
        differ = (plain[row, :width] != ours[row, :width]).nonzero()
        if not len(differ):
            continue
        at = int(differ[0])
        kept = torch.ones(at, dtype=torch.long)
        if mask is not None:
            kept[:prompt] = mask[row]
        with torch.no_grad():
            logits = model(plain[row, :at][kept.bool()][None]).logits[0, -1].float()
        if not math.isclose(logits[plain[row, at]], logits[ours[row, at]], rel_tol=0, abs_tol=TIE):
            return False
    return True
