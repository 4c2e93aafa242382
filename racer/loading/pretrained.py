"""What transformers reads of a model's files, and what it leaves out.

torch and transformers are imported where they are used, so that a wrong name is told before they take their seconds.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from typing import TYPE_CHECKING, Any

from racer.loading.sources import Source

if TYPE_CHECKING:
    from racer.loading.gguf_metadata import GgufMetadata

CHOOSING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "no_repeat_ngram_size", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("length_penalty", "early_stopping", "penalty_alpha", "dola_layers", "guidance_scale", "min_length"),
    *("min_new_tokens", "renormalize_logits", "exponential_decay_length_penalty", "assistant_early_exit"),
)
"""Settings of how tokens are chosen."""


def model(source: Source, dtype: str, metadata: GgufMetadata | None) -> Any:
    """Its weights are plain, and it is chosen from as who asks says.

    :param dtype: torch's name of it, or ``auto``: as stored.
    :raises ValueError: see :meth:`racer.loading.gguf_metadata.GgufMetadata.correct`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    given: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if source.gguf:
        given |= {"gguf_file": source.gguf, **_dequantized(), **_whole_config(source, metadata)}
    # the GGUF reader's progress bar knows no switch
    with redirect_stderr(io.StringIO()) if source.gguf else nullcontext():
        made = AutoModelForCausalLM.from_pretrained(source.place, **given)
    if made.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
        made.set_attn_implementation("sdpa")  # flash attention cannot take a tree mask
    if getattr(made.config.get_text_config(), "attn_logit_softcapping", None):
        made.set_attn_implementation("eager")  # sdpa knows no caps, and older transformers takes it all the same
    _choose_neutrally(made.generation_config)
    return made


def _whole_config(source: Source, metadata: GgufMetadata | None) -> dict[str, Any]:
    """A configuration with what a GGUF file says and transformers does not read; empty where that is nothing.

    :raises ValueError: see :meth:`racer.loading.gguf_metadata.GgufMetadata.correct`.
    """
    if metadata is None or not metadata.tells_more:  # to read a configuration takes seconds
        return {}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.place, gguf_file=source.gguf)
    metadata.correct(config.get_text_config())
    return {"config": config}


def _choose_neutrally(settings: Any) -> None:
    """Take back how a model's makers would have tokens chosen: here that is said by who asks."""
    from transformers import GenerationConfig

    neutral = GenerationConfig()
    for name in CHOOSING:
        if hasattr(settings, name):
            setattr(settings, name, getattr(neutral, name, None))


def _dequantized() -> dict[str, Any]:
    """Ask for plain weights where transformers would keep a GGUF's blocks; older ones always give plain weights."""
    try:
        from transformers.utils.quantization_config import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def tokenizer(source: Source) -> Any:
    """The tokenizer alone."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.place, **({"gguf_file": source.gguf} if source.gguf else {}))


def end_turns(model: Any, tokens: Sequence[int]) -> None:
    """Let a model's answers end at these tokens, too."""
    settings = model.generation_config
    known = settings.eos_token_id
    ends = list(known) if isinstance(known, list | tuple) else [] if known is None else [known]
    if more := [token for token in dict.fromkeys(tokens) if token not in ends]:
        settings.eos_token_id = [*ends, *more]
