"""A loaded model, and what front ends ask of it: prompts as tokens, room in its context, plain logits."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from racer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class LoadedModel:
    """A model that is ready to decode."""

    model: Any
    tokenizer: Any
    name: str
    weights: str = "plain"
    """``keep``, ``int8`` or ``int4`` where they are multiplied in few bits."""

    @property
    def dtype(self) -> str:
        """Of plain weights and activations, as ``--dtype`` names it."""
        full = str(self.model.dtype).removeprefix("torch.")
        return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(full, full)

    @property
    def pad_token_id(self) -> int | None:
        """What ``generate`` shall fill up with; models without a padding token are padded with their end token."""
        pad: int | None = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def fingerprint(self) -> str:
        """Names the tokens and the model's shape: what was learned from one model is of use to its equals only."""
        config = self.model.config.get_text_config()
        shape = [config.model_type, config.vocab_size, config.hidden_size, config.num_hidden_layers]
        named = json.dumps([shape, sorted(self.tokenizer.get_vocab().items())])
        return hashlib.sha256(named.encode()).hexdigest()

    def goes_on(self, raw: bool) -> bool:
        """Whether an answer goes on from the text of the prompt, and does not follow a chat template's last words."""
        return raw or not getattr(self.tokenizer, "chat_template", None)

    def encode(self, messages: Sequence[Mapping[str, str]], *, raw: bool = False) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, both ``[1, P]`` on the model's device.

        The conversation goes through the model's chat template; the texts alone are taken, with empty lines between
        them, where there is none, or with ``raw``.

        :param messages: ``{"role": "user" or "assistant", "content": ...}``, the latest last.
        :raises ConfigError: the template fails.
        """
        if self.goes_on(raw):
            encoded = self.tokenizer("\n\n".join(message["content"] for message in messages), return_tensors="pt")
        else:
            try:
                encoded = self.tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, return_dict=True, return_tensors="pt"
                )
            except Exception as error:  # templates are programs of the model's authors
                reason = str(error) or type(error).__name__
                raise ConfigError(f"the model's chat template fails: {reason}") from error
        return {name: encoded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}

    def room(self, prompt_tokens: int) -> int | None:
        """New tokens that the model's context has room for after the prompt; None if it states no limit.

        :raises ConfigError: the prompt has no tokens, or leaves no room.
        """
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if prompt_tokens < 1:
            raise ConfigError("the prompt has no tokens: give some text")
        if not isinstance(context, int) or context < 1:
            return None
        if prompt_tokens >= context:
            raise ConfigError(
                f"the prompt has {prompt_tokens} tokens, but the model's context is {context}: shorten it to "
                f"{context - 1} at most"
            )
        return context - prompt_tokens

    def next_logits(self, ids: Sequence[int]) -> Tensor:
        """``[V]`` float32: the plain model's logits after ``ids``, by one forward pass without a cache."""
        import torch

        takes = inspect.signature(self.model.forward).parameters
        last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        with torch.no_grad():
            output = self.model(input_ids=torch.tensor([ids], device=self.model.device), use_cache=False, **last)
        logits: Tensor = output.logits[0, -1].float()
        return logits


def first_difference(tokens: Sequence[int], plain: Sequence[int]) -> int | None:
    """Index of the first token that differs (or that only one of the two has); None if none does."""
    if tokens == plain:
        return None
    pairs = enumerate(zip(tokens, plain, strict=False))
    return next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(tokens), len(plain)))


def top2_gap(scores: Tensor) -> float:
    """How far the two best of ``scores [V]`` are apart."""
    best = scores.topk(2).values
    return float(best[0] - best[1])


def sampling_arguments(
    sample: bool,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
) -> dict[str, Any]:
    """Arguments for ``generate``, given even where neutral, so that no default of a model's own comes in unasked."""
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    if not sample:
        return {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, **neutral}  # unused, so unwarned
    return {
        "do_sample": True,
        **neutral,
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "top_k": top_k or 0,
        **({} if min_p is None else {"min_p": min_p}),
    }
