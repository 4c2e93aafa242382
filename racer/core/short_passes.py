"""Linear attention over a few tokens after a state, where transformers has code for one token and for whole prompts.

The gated delta rule (Yang et al., Gated Delta Networks, arXiv 2412.06464, section 3.3) keeps a matrix ``S`` of each
head. With a decay ``exp(g)``, a rate ``beta`` and for each token a query, a key and a value::

    S <- exp(g) S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q

transformers goes token by token where there is one, and else by chunks of 64, however few there are: on a CPU that cost
more than the rest of a chain. Here all tokens of a pass are one chunk of its own size. Its matrices are read three
times, not four times for each token.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from racer.core.twin import MOVES, code_within

SHORT = 32
"""Tokens of a pass, at most."""
CHUNKED, ONE_BY_ONE = "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"
"""What transformers calls its own code for prompts, and for single tokens."""
PACKED = ("cu_seqlens", "seq_idx")
"""Arguments that say that several texts stand in a row."""


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, state: Tensor, *, normed: bool
) -> tuple[Tensor, Tensor]:
    """Outputs ``[B, N, H, V]`` of N tokens, and the state ``[B, H, K, V]`` after them; computed in float32.

    :param query, key: ``[B, N, H / groups, K]``
    :param value: ``[B, N, H, V]``
    :param g, beta: ``[B, N, H]``; a decay is ``exp(g)``.
    :param state: ``[B, H, K, V]``
    :param normed: whether queries and keys are divided by their length first.
    """
    groups = value.shape[2] // key.shape[2]
    query, key, values, decay, rate = (part.transpose(1, 2).float() for part in (query, key, value, g, beta))
    if normed:
        query, key = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (query, key))
    query = query * query.shape[-1] ** -0.5
    if groups > 1:
        query, key = (part.repeat_interleave(groups, dim=1) for part in (query, key))
    before = state.float()
    passed = decay.cumsum(-1)  # [B, H, N]: the logarithm of what is left of the state at each token
    left = passed.exp()[..., None]
    between = (passed[..., :, None] - passed[..., None, :]).tril().exp().tril()  # [B, H, N, N]: of what a token wrote
    tokens = key.shape[2]
    seen = torch.cat([key, query], dim=2) @ torch.cat([before, key.transpose(2, 3)], dim=3)
    old, new = seen[..., :-tokens], seen[..., -tokens:]
    wanted = rate[..., None] * (values - left * old[:, :, :tokens])
    mixed = (rate[..., None] * between * new[:, :, :tokens]).tril(-1)
    written = torch.linalg.solve_triangular(mixed, wanted, upper=False, unitriangular=True)
    outputs = left * old[:, :, tokens:] + (between * new[:, :, tokens:]) @ written
    kept = between[..., -1, :, None] * key
    after = left[..., -1:, :] * before + kept.transpose(2, 3) @ written
    return outputs.transpose(1, 2).contiguous().to(value.dtype), after


def short_forward(kind: type) -> Callable[..., Any] | None:
    """The forward of a module of class ``kind`` that takes short passes as above; None if it needs none.

    It is the class's own code, which finds another function under the name of transformers': nothing of the class or
    of its module is touched.
    """
    forward: Any = getattr(kind, "forward", None)
    if not isinstance(forward, FunctionType) or importlib.util.find_spec("fla") is not None:  # it has fast kernels
        return None
    code: Any = code_within(forward, MOVES)
    if code is None or code.__closure__ or not {CHUNKED, ONE_BY_ONE} <= set(code.__code__.co_names):
        return None
    chunked = code.__globals__.get(CHUNKED)
    if chunked is None:
        return None
    own = FunctionType(
        code.__code__, {**code.__globals__, CHUNKED: _or_short(chunked)}, code.__name__, code.__defaults__
    )
    own.__kwdefaults__ = code.__kwdefaults__
    return own


def _or_short(chunked: Callable[..., Any]) -> Callable[..., Any]:
    """``chunked``, but for short passes after a state."""

    def rule(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        g: Tensor,
        beta: Tensor,
        chunk_size: int = 64,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
        use_qk_l2norm_in_kernel: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        packed = any(others.get(name) is not None for name in PACKED)
        if initial_state is None or query.shape[1] > SHORT or packed:
            own: dict[str, Any] = {"initial_state": initial_state, "output_final_state": output_final_state}
            own |= {"use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel, "chunk_size": chunk_size}
            result: tuple[Tensor, Tensor | None] = chunked(query, key, value, g=g, beta=beta, **own, **others)
            return result
        normed = use_qk_l2norm_in_kernel
        outputs, state = gated_delta_rule(query, key, value, g, beta, initial_state, normed=normed)
        return outputs, state if output_final_state else None

    return rule
