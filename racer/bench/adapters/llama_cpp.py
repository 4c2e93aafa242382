"""llama.cpp's own decoding of the same tokens, by its server.

It is not asked to stream: that costs it 1 to 2 % with small models, which no other method pays, and its stream leaves
out the tokens of a character that takes several.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from racer.bench.adapters.base import Adapter
from racer.bench.adapters.llama_server import LlamaServer, PeerFailed
from racer.bench.peers import Peer
from racer.bench.trials import Measured
from racer.loading.loaded_model import LoadedModel

NO_MEMORY_OF_PROMPTS = ("--cache-ram", "0", "--ctx-checkpoints", "0")
"""Every prompt is read whole, as by all others, so what would save that is not made either."""


class LlamaCppAdapter(Adapter):
    """One method, with a server of its own, which starts when it is first asked.

    :param context: tokens that a prompt and its answer may have.
    """

    in_process = False

    def __init__(self, loaded: LoadedModel, sampling: dict[str, Any], peer: Peer, context: int) -> None:
        super().__init__(loaded, sampling)
        self._peer = peer
        self._context = context
        self._server: LlamaServer | None = None
        self._refusal: PeerFailed | None = None

    def options(self) -> list[str]:
        """Of the server."""
        threads = str(torch.get_num_threads())
        place = ["--device", "none"] if self.loaded.model.device.type == "cpu" else []
        return [
            "--model", self._peer.file, "--ctx-size", str(self._context), "--parallel", "1", "--no-webui",
            "--threads", threads, "--threads-batch", threads, *place, *NO_MEMORY_OF_PROMPTS, *self._peer.options,
        ]  # fmt: skip

    def answer(self, inputs: dict[str, Tensor], limit: int, seed: int) -> Measured:
        server = self._started()
        body = self._body(inputs["input_ids"][0].tolist(), limit, seed)
        began = time.perf_counter()
        told = server.ask("/completion", body)
        seconds = time.perf_counter() - began
        tokens = told.get("tokens")
        if not isinstance(tokens, list) or not tokens:
            raise PeerFailed("llama-server answered without tokens")
        return self._measured(tokens[:limit], told.get("timings") or {}, seconds)

    def forget(self) -> None:
        """What it drafts from goes with the process. Plain decoding keeps nothing."""
        if self._peer.options:
            self.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _started(self) -> LlamaServer:
        """The server; a new one where it died. One that did not start is not tried again."""
        if self._refusal is not None:
            raise self._refusal
        if self._server is None or not self._server.running:
            self.close()
            try:
                self._server = LlamaServer(self._peer.program, self.options())
            except PeerFailed as error:
                self._refusal = error
                raise
        return self._server

    def _body(self, prompt: list[int], limit: int, seed: int) -> dict[str, Any]:
        """The samplers are named, so that no other of its defaults comes in."""
        common = {
            "prompt": prompt, "n_predict": limit, "cache_prompt": False, "return_tokens": True, "stream": False,
        }  # fmt: skip
        if not self.sampling["do_sample"]:
            return common | {"temperature": 0.0, "top_k": 1, "samplers": ["top_k"]}
        chosen = {name: self.sampling[name] for name in ("temperature", "top_p")}
        return common | chosen | {"seed": seed, "samplers": ["temperature", "top_p"]}

    def _measured(self, tokens: list[int], timings: dict[str, Any], seconds: float) -> Measured:
        """It tells how many tokens were drafted and kept, not of which step: that gives the number of steps.

        The first token is there when all but the time of the others has passed, which the server's clock tells.
        """
        row = self.cut(tokens)
        drafted, kept = (int(timings.get(name, 0)) for name in ("draft_n", "draft_n_accepted"))
        others = len(row) - 1
        kept = min(kept, max(0, others - 1))  # it counts what was accepted behind the end token, too
        rest = timings.get("predicted_ms")
        return Measured(
            tokens=[row],
            accept_lengths=[[] if self._peer.options else [1] * others],
            steps=others - kept,
            drafted=drafted,
            kept=kept,
            seconds=seconds,
            first_token_seconds=None if rest is None else max(0.0, seconds - rest / 1e3),
        )
