"""Parts of models that have machine code of their own while trees are scored: norms, rotary positions, gated layers.

They are small, and a step runs hundreds of them: what they take is the way into torch and back, five or eight times
each. A class of modules is known by its code: that of its forward must be, byte for byte, the code of the class of
transformers that ours was tried against when this process first met it. All else runs as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from racer.core.recording import DTYPES
from racer.core.small_parts import kind_of, normed, passed, turned
from racer.core.twin import MOVES, RENAMES, Forward, code_within
from racer.kernels.native.small import SILU

ROTARY, HALF = "apply_rotary_pos_emb", "rotate_half"


def fast_forward(kind: type) -> Forward | None:
    """The forward of a module of class ``kind`` with machine code in it; None if there is none."""
    own = getattr(kind, "forward", None)
    if not isinstance(own, FunctionType):
        return None
    makers: tuple[tuple[Any, Any], ...] = ((_norm_of, _norm), (_gated_of, _gated), (_rotating_of, _rotating))
    for known, made in makers:
        found = known(kind)
        if found is not None:
            forward: Forward = made(own, found)
            return forward
    return None


# -- known by their code ----------------------------------------------------------------------------------------------


def _same(left: Any, right: Any) -> bool:
    """Whether two functions do the same, by their code; names of globals are taken to mean the same."""
    if not (isinstance(left, FunctionType) and isinstance(right, FunctionType)):
        return False
    one, other = (inspect.unwrap(function) for function in (left, right))
    return one.__closure__ is None and other.__closure__ is None and _facts(one) == _facts(other)


def _facts(function: Any) -> tuple[Any, ...]:
    code = function.__code__
    constants = [value for value in code.co_consts if not isinstance(value, str)]
    return code.co_code, code.co_names, code.co_varnames, constants, function.__defaults__, function.__kwdefaults__


def _plain_norm() -> type:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    found: type = LlamaRMSNorm
    return found


def _shifted_norm() -> type:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    found: type = GemmaRMSNorm
    return found


def _norm_of(kind: type) -> tuple[bool, str] | None:
    """Whether one is added to the weight, and the name of what is added to the mean square."""
    own: Any = kind.forward  # type: ignore[attr-defined]
    if hasattr(kind, "weight"):  # not a parameter
        return None
    for shifted, name, model in ((False, "variance_epsilon", _plain_norm), (True, "eps", _shifted_norm)):
        reference: Any = model()
        helpers = [(getattr(kind, "_norm", None), reference._norm)] if shifted else []
        codes = _codes(reference.forward, *(helper for _, helper in helpers))
        if all(_same(*pair) for pair in [(own, reference.forward), *helpers]) and _norm_is_ours(shifted, name, codes):
            return shifted, name
    return None


def _codes(*functions: Any) -> tuple[Any, ...]:
    """What functions of transformers are now: others may put theirs in their places at any time."""
    return tuple(getattr(inspect.unwrap(function), "__code__", function) for function in functions)


@cache
def _norm_is_ours(shifted: bool, name: str, _: tuple[Any, ...]) -> bool:
    """Whether ours gives what transformers' gives here, in each dtype.

    :param _: the codes that this is asked of.
    """
    reference: Any = (_shifted_norm if shifted else _plain_norm)()
    generator = torch.Generator().manual_seed(0)
    with torch.device("cpu"), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for dtype in DTYPES:
            module = reference(48, 0.5).to(dtype)
            rows = torch.randn(3, 48, generator=generator).to(dtype)
            module.weight.copy_(torch.randn(48, generator=generator))
            if not _is_near(normed(module, rows, shifted, name), module(rows)):
                return False
    return True


def _gated_of(kind: type) -> bool | None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    same = _same(kind.forward, LlamaMLP.forward)  # type: ignore[attr-defined]
    return True if same and _gates_are_ours(_codes(LlamaMLP.forward)) else None


@cache
def _gates_are_ours(_: tuple[Any, ...]) -> bool:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    generator = torch.Generator().manual_seed(0)
    with torch.device("cpu"), torch.no_grad(), torch.autocast("cpu", enabled=False):
        module: Any = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=48))
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
        for dtype in DTYPES:
            module.to(dtype)
            rows = torch.randn(3, 32, generator=generator).to(dtype)
            let = passed(module.gate_proj(rows), module.up_proj(rows), SILU)
            if let is None or not _is_near(module.down_proj(let), module(rows), of=4.0):
                return False
    return True


def _rotating_of(kind: type) -> Any:
    """Its code, if it turns queries and keys as Llama does."""
    from transformers.models.llama import modeling_llama as llama

    own: Any = kind.forward  # type: ignore[attr-defined]
    code: Any = code_within(own, MOVES, RENAMES)
    if code is None or code.__closure__ or ROTARY not in code.__code__.co_names:
        return None
    turns = code.__globals__.get(ROTARY)
    if not _same(turns, getattr(llama, ROTARY)):
        return None
    inner = inspect.unwrap(turns).__globals__
    codes = _codes(getattr(llama, ROTARY), getattr(llama, HALF))
    if (
        not _same(inner.get(HALF), getattr(llama, HALF))
        or inner.get("torch") is not torch
        or not _turns_are_ours(codes)
    ):
        return None
    return code


@cache
def _turns_are_ours(_: tuple[Any, ...]) -> bool:
    from transformers.models.llama import modeling_llama as llama

    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu")

    for dtype in DTYPES:
        query, key = some(2, 3, 4, 64).to(dtype).transpose(1, 2), some(2, 4, 3, 64).to(dtype)[:, :1].contiguous()
        angles = some(2, 3, 64).to(dtype), some(2, 3, 64).to(dtype)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            ours, theirs = turned(query, key, *angles), getattr(llama, ROTARY)(query, key, *angles)
        if ours is None or not all(_is_near(*pair) for pair in zip(ours, theirs, strict=True)):
            return False
    return True


def _is_near(ours: Tensor | None, theirs: Tensor, of: float = 1.0) -> bool:
    """Whether they are the same up to rounding of numbers that are about ``of``."""
    tolerance = of * (1e-2 if theirs.dtype == torch.bfloat16 else 1e-5)
    return ours is not None and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# -- with machine code ------------------------------------------------------------------------------------------------


def _norm(own: Forward, found: tuple[bool, str]) -> Forward:
    shifted, name = found

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        made = normed(self, given[0], shifted, name) if len(given) == 1 and not named else None
        return own(self, *given, **named) if made is None else made

    return forward


def _gated(own: Forward, _: Any) -> Forward:
    def forward(self: Any, x: Tensor) -> Any:
        kind = kind_of(self.act_fn)
        if kind is None:
            return own(self, x)
        gates, rows = self.gate_proj(x), self.up_proj(x)
        let = passed(gates, rows, kind)
        return self.down_proj(self.act_fn(gates) * rows if let is None else let)

    return forward


def _rotating(_: Forward, code: Any) -> Forward:
    """The class's own code, which finds another function under the name of transformers'."""
    names = {**code.__globals__, ROTARY: _turning(code.__globals__)}
    own = FunctionType(code.__code__, names, code.__name__, code.__defaults__)
    own.__kwdefaults__ = code.__kwdefaults__
    return own


def _turning(names: dict[str, Any]) -> Callable[..., Any]:
    """
    :param names: where transformers' function is; another one may stand there later.
    """
    known = names[ROTARY]

    def turn(*arguments: Any, **named: Any) -> Any:
        now = names[ROTARY]
        ours = turned(*arguments) if now is known and len(arguments) == 4 and not named else None
        return now(*arguments, **named) if ours is None else ours

    return turn
