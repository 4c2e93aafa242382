"""What a GGUF file says of its model that transformers does not read: positions, windows, caps, tokens that end a turn.

The keys are those of the GGUF specification and of llama.cpp, which writes ``rope_freqs`` for Llama 3.1 and later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

LOW, HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192
"""Between which parts of its first context Llama 3 goes over from frequencies as they were to divided ones."""
ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
"""Tokens that end a turn or a message; transformers reads the one that ends a text."""
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>")
"""How they are written, where the file names none, as llama.cpp looks for them."""
ARCHITECTURE = "general.architecture"
CONTEXT = "original_context_length"
SETTINGS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Keys behind the architecture's name, and what a configuration calls them."""
READ_BY_TRANSFORMERS = ("gpt-oss",)
"""Architectures whose scaled positions are left to transformers."""
FACTORS = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
"""Tensors of longrope, and what transformers calls them."""
LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the models of 27 B. They alone divide scores by the root of size over heads; no file says it, llama.cpp
goes by the layers, too."""
OTHERWISE = (
    "{} in a way that is not read here, and would be another model without: load the folder that the file was made from"
)


class GgufMetadata:
    """A GGUF file's facts."""

    def __init__(self, file: Path) -> None:
        """
        :raises ValueError: it is none, or a part of one.
        """
        import gguf

        self.reader: Any = gguf.GGUFReader(file)

    def value(self, key: str) -> Any:
        """None where the file does not say it."""
        field = self.reader.fields.get(key)
        return None if field is None else field.contents()

    @property
    def types(self) -> set[str]:
        """Of its tensors."""
        return {tensor.tensor_type.name for tensor in self.reader.tensors}

    def turn_ends(self, tokenizer: Any) -> list[int]:
        """Tokens that end an answer beside the one that ends a text."""
        said = [number for key in ENDS if (number := self.value(key)) is not None]
        if not said:
            template, known = str(tokenizer.chat_template or ""), tokenizer.get_vocab()
            said = [known[text] for text in TURN_ENDS if text in template and text in known]
        return [int(number) for number in said]

    @property
    def tells_more(self) -> bool:
        """Whether a configuration as transformers reads it may not be the model's."""
        return bool(self._scales or self._rotary_share or self._unread or self._unread_theta or self._is_largest)

    def correct(self, config: Any) -> None:
        """Put into a configuration, before a model is made of it, what transformers has not read.

        :raises ValueError: it cannot be put there, so that the model would be another one.
        """
        rope = getattr(config, "rope_parameters", None) or {}
        rope = rope.get("full_attention", rope)  # some have others for their windows
        if self._unread_theta:
            rope["rope_theta"] = self._unread_theta
        if self._is_largest:
            config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
        if self._scales:
            rope.update(self._scaled_rope(rope["rope_theta"]))
        if rope.get("rope_type") == "longrope":  # Phi 3 has it outside, too
            config.original_max_position_embeddings = rope["original_max_position_embeddings"]
        if self._rotary_share is not None:
            rope["partial_rotary_factor"] = self._rotary_share
        for key, value in self._unread.items():
            name = SETTINGS[key]
            if getattr(config, name, None) == value:
                continue
            if not hasattr(config, name) or (name == "sliding_window" and getattr(config, "layer_types", None)):
                raise ValueError(OTHERWISE.format(f"it has {key} = {value}"))
            setattr(config, name, value)

    @property
    def _arch(self) -> str:
        return str(self.value(ARCHITECTURE))

    @property
    def _read(self) -> Mapping[str, Any] | None:
        """What transformers reads of this architecture, by its keys; None where it has a reader of its own."""
        from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

        read: Mapping[str, Any] | None = GGUF_CONFIG_MAPPING.get(self._arch.replace("moe", "_moe"))
        return read

    @property
    def _unread(self) -> dict[str, Any]:
        """Of :data:`SETTINGS` what is said and not read."""
        read, longest = self._read, self.value(f"{self._arch}.context_length")
        if read is None:
            return {}
        said = {key: self.value(f"{self._arch}.{key}") for key in SETTINGS if read.get(key) is None}
        window = said.get("attention.sliding_window")
        if not window or (longest and window >= longest):
            said.pop("attention.sliding_window", None)
        return {key: value for key, value in said.items() if value is not None}

    @property
    def _unread_theta(self) -> float | None:
        """The rotary base, where transformers does not read it."""
        read, key = self._read, "rope.freq_base"
        return None if read is None or read.get(key) is not None else self.value(f"{self._arch}.{key}")

    @property
    def _is_largest(self) -> bool:
        return bool(self.value(f"{self._arch}.block_count") == LARGEST.get(self._arch, -1))

    @property
    def _rotary_share(self) -> float | None:
        """The part of each head that is rotated, where it is not all of it and is not read."""
        arch, read = self._arch, self._read
        width, size, heads = (
            self.value(f"{arch}.{key}") for key in ("rope.dimension_count", "embedding_length", "attention.head_count")
        )
        if read is None or read.get("rope.dimension_count") is not None or not isinstance(width, int):
            return None
        head = self.value(f"{arch}.attention.key_length") or (size // heads if isinstance(heads, int) else width)
        return None if width >= head else width / head

    @property
    def _scales(self) -> bool:
        """Whether it scales positions in a way that transformers does not read."""
        return self._arch not in READ_BY_TRANSFORMERS and self._scaling.changes

    def _scaled_rope(self, theta: float) -> dict[str, Any]:
        """Of the layers that see all of a text.

        :param theta: the rotary base.
        """
        scaling = self._scaling
        parameters = scaling.parameters(theta)
        if parameters is None:
            what = sorted(scaling.tables) or [f"rope.scaling.type = {scaling.kind!r}"]
            raise ValueError(OTHERWISE.format(f"it scales its positions ({what[0]})"))
        return parameters

    @property
    def _scaling(self) -> _Scaling:
        arch = self._arch
        prefix = f"{arch}.rope.scaling."
        said = {key.removeprefix(prefix): self.value(key) for key in self.reader.fields if key.startswith(prefix)}
        factor = float(said.pop("factor", None) or self.value(f"{arch}.rope.scale_linear") or 1.0)
        kind = str(said.pop("type", "none" if factor == 1.0 else "linear"))
        said.pop("finetuned", None)
        named = [tensor for tensor in self.reader.tensors if tensor.name.startswith("rope_")]
        tables = {tensor.name: np.asarray(tensor.data, np.float32).reshape(-1) for tensor in named}
        return _Scaling(kind, factor, said, tables)


@attrs.frozen(eq=False)
class _Scaling:
    """How a file scales positions."""

    kind: str
    factor: float
    more: Mapping[str, Any]
    """What else it says of it."""
    tables: Mapping[str, NDArray[np.float32]]
    """Divisors of frequencies."""

    @property
    def changes(self) -> bool:
        unscaled = self.kind == "none" or (self.kind == "linear" and self.factor == 1.0)
        return bool(self.tables) or not unscaled

    def parameters(self, theta: float) -> dict[str, Any] | None:
        """As transformers names them; None where they have no names."""
        if self.kind == "none" and list(self.tables) == ["rope_freqs.weight"]:
            return _llama3(self.tables["rope_freqs.weight"], theta)
        if sorted(self.tables) == list(FACTORS) and CONTEXT in self.more and self.kind in ("none", "longrope"):
            factors = {name: self.tables[tensor].tolist() for tensor, name in FACTORS.items()}
            attention = self.more.get("attn_factor")
            more = {} if attention is None else {"attention_factor": float(attention)}
            trained = int(self.more[CONTEXT])
            return {"rope_type": "longrope", "original_max_position_embeddings": trained, **factors, **more}
        if self.tables:
            return None
        if self.kind == "linear" and not self.more:
            return {"rope_type": "linear", "factor": self.factor}
        if self.kind == "yarn" and set(self.more) == {CONTEXT}:
            trained = int(self.more[CONTEXT])
            return {"rope_type": "yarn", "factor": self.factor, "original_max_position_embeddings": trained}
        return None


def _llama3(divisors: NDArray[np.float32], theta: float) -> dict[str, Any] | None:
    """The parameters by which Llama 3.1 and its heirs divide their frequencies so; None if none do."""
    factor = float(divisors.max())
    wavelength = 2 * np.pi * theta ** (np.arange(len(divisors)) / len(divisors))
    smooth = np.clip((LLAMA3_CONTEXT / wavelength - LOW) / (HIGH - LOW), 0, 1)
    if not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        return None
    bounds = {"low_freq_factor": LOW, "high_freq_factor": HIGH, "original_max_position_embeddings": LLAMA3_CONTEXT}
    return {"rope_type": "llama3", "factor": factor, **bounds}
