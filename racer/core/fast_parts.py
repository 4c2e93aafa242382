"""Parts of models that have machine code of their own while trees are scored: norms, rotary positions, gated layers.

They are small, and a step runs hundreds of them: what they take is the way into torch and back, five or eight times
each. A class of modules is known by its code: that of its forward must be, byte for byte, the code of the class of
transformers that ours was tried against when this process first met it. All else runs as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from racer.core.recording import NODES, Depends, recorder
from racer.core.twin import Forward
from racer.kernels.native.assembling import NotHere
from racer.kernels.native.small import GELU_TANH, SILU, gate, root_mean_square, rotation

DTYPES = (torch.bfloat16, torch.float32)
LANES = 16
MOST = 1 << 18
"""Numbers up to which one thread is enough."""
GATED = 1 << 13
"""The same where each takes an exponential."""
ROTARY, HALF = "apply_rotary_pos_emb", "rotate_half"
WRAPPERS = ("integrations/accelerate.py", "utils/deprecation.py")
"""Where transformers wraps forwards for weights that are fetched by hooks (a model that has hooks has no twin), and for
arguments under old names (by which no model calls its own parts)."""


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
        if all(_same(*pair) for pair in [(own, reference.forward), *helpers]) and _norm_is_ours(shifted, name):
            return shifted, name
    return None


@cache
def _norm_is_ours(shifted: bool, name: str) -> bool:
    """Whether ours gives what transformers' gives here, in each dtype."""
    reference: Any = (_shifted_norm if shifted else _plain_norm)()
    generator = torch.Generator().manual_seed(0)
    with torch.device("cpu"), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for dtype in DTYPES:
            module = reference(48, 0.5).to(dtype)
            rows = torch.randn(3, 48, generator=generator).to(dtype)
            module.weight.copy_(torch.randn(48, generator=generator))
            if not _is_near(_normed(module, rows, shifted, name), module(rows)):
                return False
    return True


def _gated_of(kind: type) -> bool | None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    return True if _same(kind.forward, LlamaMLP.forward) else None  # type: ignore[attr-defined]


def _rotating_of(kind: type) -> Any:
    """Its code, if it turns queries and keys as Llama does."""
    from transformers.models.llama import modeling_llama as llama

    own: Any = kind.forward  # type: ignore[attr-defined]
    code: Any = inspect.unwrap(own)
    if code is not own and not own.__code__.co_filename.replace("\\", "/").endswith(WRAPPERS):
        return None
    if code.__closure__ or ROTARY not in code.__code__.co_names:
        return None
    turns = code.__globals__.get(ROTARY)
    if not _same(turns, getattr(llama, ROTARY)):
        return None
    inner = inspect.unwrap(turns).__globals__
    if not _same(inner.get(HALF), getattr(llama, HALF)) or inner.get("torch") is not torch or not _turns_are_ours():
        return None
    return code


@cache
def _turns_are_ours() -> bool:
    from transformers.models.llama import modeling_llama as llama

    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu")

    for dtype in DTYPES:
        query, key = some(2, 3, 4, 64).to(dtype).transpose(1, 2), some(2, 4, 3, 64).to(dtype)[:, :1].contiguous()
        angles = some(2, 3, 64).to(dtype), some(2, 3, 64).to(dtype)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            ours, theirs = _turned(query, key, *angles), getattr(llama, ROTARY)(query, key, *angles)
        if ours is None or not all(_is_near(*pair) for pair in zip(ours, theirs, strict=True)):
            return False
    return True


def _is_near(ours: Tensor | None, theirs: Tensor) -> bool:
    tolerance = 1e-2 if theirs.dtype == torch.bfloat16 else 1e-5
    return ours is not None and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# -- with machine code ------------------------------------------------------------------------------------------------


def _is_plain(numbers: Any) -> bool:
    """Whether machine code may read them."""
    return (
        type(numbers) in (Tensor, nn.Parameter)
        and numbers.dtype in DTYPES
        and numbers.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _normed(module: Any, rows: Any, shifted: bool, name: str) -> Tensor | None:
    weight = module._parameters.get("weight")
    if not (_is_plain(rows) and _is_plain(weight) and rows.dtype == weight.dtype):
        return None
    if rows.dim() == 4 and rows.stride(1) < rows.stride(2):  # heads before nodes, but only in name
        normed = _normed(module, rows.transpose(1, 2), shifted, name)
        return None if normed is None else normed.transpose(1, 2)
    width = rows.shape[-1]
    if width % LANES or weight.shape != (width,) or rows.numel() > MOST:
        return None
    added = getattr(module, name)
    if type(added) not in (float, int) or not (rows.is_contiguous() and weight.is_contiguous()):
        return None
    try:
        norm = root_mean_square(rows.dtype == torch.bfloat16, shifted)
    except NotHere:
        return None
    count, writer = rows.numel() // width, recorder()
    out = torch.empty_like(rows) if writer is None else writer.empty(tuple(rows.shape), rows.dtype)
    norm(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), count, width, added)
    if writer is not None:
        writer.weight(module._parameters, "weight")
        writer.note(norm, rows, weight, out, Depends(NODES, count // writer.nodes), width, float(added))
    return out


def _norm(own: Forward, found: tuple[bool, str]) -> Forward:
    shifted, name = found

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        normed = _normed(self, given[0], shifted, name) if len(given) == 1 and not named else None
        return own(self, *given, **named) if normed is None else normed

    return forward


@cache
def _gates() -> dict[type, str]:
    """What classes of activations let through."""
    from transformers import activations

    kinds: dict[type, str] = {nn.SiLU: SILU}
    for name, kind in (("SiLUActivation", SILU), ("GELUTanh", GELU_TANH), ("PytorchGELUTanh", GELU_TANH)):
        if isinstance(found := getattr(activations, name, None), type):
            kinds[found] = kind
    return kinds


def _kind_of(activation: Any) -> str | None:
    kind = _gates().get(type(activation))
    if kind == GELU_TANH and not isinstance(getattr(activation, "act", functools.partial(len)), functools.partial):
        return None  # transformers' own formula, operation by operation
    return kind


def _gated(own: Forward, _: Any) -> Forward:
    def forward(self: Any, x: Tensor) -> Any:
        kind = _kind_of(self.act_fn)
        if kind is None:
            return own(self, x)
        gates, rows = self.gate_proj(x), self.up_proj(x)
        passed = _passed(gates, rows, kind)
        return self.down_proj(self.act_fn(gates) * rows if passed is None else passed)

    return forward


def _passed(gates: Any, rows: Any, kind: str) -> Tensor | None:
    if not (_is_plain(gates) and _is_plain(rows) and gates.dtype == rows.dtype and gates.shape == rows.shape):
        return None
    count = gates.numel()
    writer = recorder()
    if count % LANES or (count > GATED and writer is None) or not (gates.is_contiguous() and rows.is_contiguous()):
        return None
    try:
        let = gate(gates.dtype == torch.bfloat16, kind)
    except NotHere:
        return None
    out = torch.empty_like(gates) if writer is None else writer.empty(tuple(gates.shape), gates.dtype)
    let(gates.data_ptr(), rows.data_ptr(), out.data_ptr(), count)
    if writer is not None:
        writer.note(let, gates, rows, out, Depends(NODES, count // writer.nodes))
    return out


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
        turned = _turned(*arguments) if now is known and len(arguments) == 4 and not named else None
        return now(*arguments, **named) if turned is None else turned

    return turn


def _turned(query: Any, key: Any, cos: Any, sin: Any) -> tuple[Tensor, Tensor] | None:
    parts = query, key, cos, sin
    if not all(_is_plain(part) and part.dtype == query.dtype and part.stride(-1) == 1 for part in parts):
        return None
    if query.dim() != 4 or key.dim() != 4 or cos.dim() != 3 or cos.shape != sin.shape or query.numel() > MOST:
        return None
    batch, _, nodes, size = query.shape
    fits = key.shape[::2] == query.shape[::2] and key.shape[3] == size and size % (2 * LANES) == 0
    if not fits or tuple(cos.shape) not in ((batch, nodes, size), (1, nodes, size)):
        return None
    if not (cos.is_contiguous() and sin.is_contiguous()):
        return None
    try:
        rotate = rotation(query.dtype == torch.bfloat16)
    except NotHere:
        return None
    angles = cos.stride(0) * cos.element_size() if cos.shape[0] > 1 else 0
    return _rotated(rotate, query, cos, sin, angles), _rotated(rotate, key, cos, sin, angles)


def _rotated(rotate: Any, rows: Tensor, cos: Tensor, sin: Tensor, angles: int) -> Tensor:
    """``[B, H, N, D]``, of which the nodes lie apart, as they do in what the layer's products give."""
    batch, heads, nodes, size = rows.shape
    shape, writer = (batch, nodes, heads, size), recorder()
    out = rows.new_empty(shape) if writer is None else writer.empty(shape, rows.dtype)
    bytes_ = rows.element_size()
    by_batch, by_head, by_node = (stride * bytes_ for stride in rows.stride()[:3])
    rotate(
        rows.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(),
        *rows.shape, by_batch, by_head, by_node, angles,
    )  # fmt: skip
    if writer is not None:
        if nodes > 1 and by_node < by_head:
            writer.fail("heads that lie apart")
        writer.note(rotate, rows, cos, sin, out, 1, heads, Depends(NODES), size, 0, by_head, by_node, 0)
    return out.transpose(1, 2)
