"""What a proposer sees of vLLM, without vLLM: rows that come, move, are cut, preempted, scored in pieces, and end."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from racer_vllm import Proposer

VOCAB, SEATS, LONGEST = 50, 6, 160


@attrs.define(slots=False)
class Model:
    """Its hidden states are the texts themselves."""

    surprises: bool = True
    """Whether the next token depends, now and then, on the whole text; else on its last two tokens alone."""

    def next_token(self, text: list[int]) -> int:
        whole = self.surprises and not len(text) % 7
        return hash(tuple(text if whole else text[-2:])) % VOCAB

    def compute_logits(self, texts: list[list[int]]) -> Tensor:
        """``[N, VOCAB]``, of which the next token is the best."""
        logits = torch.stack([torch.rand(VOCAB, generator=_noise(text)) for text in texts])
        logits[range(len(texts)), [self.next_token(text) for text in texts]] = 9.0
        return logits

    def plain(self, prompt: list[int], new: int) -> list[int]:
        text = list(prompt)
        for _ in range(new):
            text.append(self.next_token(text))
        return text


def _noise(text: list[int]) -> torch.Generator:
    return torch.Generator().manual_seed(hash(tuple(text[-2:])) % 2**31)


def vllm_config(most: int = 5) -> Any:
    """As much of vLLM's configuration as a proposer reads."""
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=most),
        model_config=SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: VOCAB),
        scheduler_config=SimpleNamespace(max_num_seqs=SEATS),
    )


@attrs.define(eq=False)
class Job:
    """A request."""

    text: list[int]
    end: int
    computed: int = 0
    """Tokens of it that have been scored."""
    draft: list[int] = attrs.field(factory=list)


@attrs.define
class Runner:
    """Decodes jobs greedily with a proposer's drafts; ``random`` decides what befalls them."""

    proposer: Proposer
    random: random.Random
    cuts: bool = True
    model: Model = attrs.field(factory=Model)
    waiting: list[Job] = attrs.field(factory=list)
    rows: list[Job] = attrs.field(factory=list)
    steps: int = 0
    missed: int = 0
    """Steps in which the proposer was not asked."""

    def __attrs_post_init__(self) -> None:
        self.proposer.load_model(self.model)

    def add(self, prompt: list[int], new: int) -> Job:
        job = Job(list(prompt), len(prompt) + new)
        self.waiting.append(job)
        return job

    def preempt(self) -> None:
        """The last row's cache is given up; it is computed anew, later."""
        if self.rows:
            job = self.rows.pop(self.random.randrange(len(self.rows)))
            job.computed, job.draft = 0, []
            self.waiting.append(job)

    def run(self) -> None:
        while self.waiting or self.rows:
            self.step()

    def step(self) -> None:
        while self.waiting and len(self.rows) < SEATS and self.random.random() < 0.7:
            self.rows.append(self.waiting.pop(0))
        if self.cuts and self.random.random() < 0.1:
            self.random.shuffle(self.rows)
        if not self.rows:
            return
        self.steps += 1
        places, pieces = [], []
        for job in self.rows:
            draft = job.draft
            if self.cuts and self.random.random() < 0.1:
                draft = draft[: len(draft) // 2]
            piece = self.random.randrange(1, 9) if job.computed + 1 < len(job.text) else 1
            job.computed = min(len(job.text), job.computed + piece)
            through = job.computed == len(job.text)
            pieces.append((draft, through))
            at = job.text[: job.computed]
            places += [at + draft[:count] for count in range(len(draft) + 1)] if through else [at]
        logits = self.model.compute_logits(places)
        if self.random.random() < 0.1:
            self.model.compute_logits([[1], [2], [3]])  # log probabilities of some prompt
        best, sampled = logits.argmax(-1).tolist(), []
        logits.zero_()  # as samplers change them in place
        for job, (draft, through) in zip(self.rows, pieces, strict=True):
            scored, best = best[: len(draft) + 1 if through else 1], best[len(draft) + 1 if through else 1 :]
            count = next((k for k, token in enumerate(draft) if token != scored[k]), len(draft))
            emitted = scored[: count + 1] if through else []
            job.text += emitted
            job.computed += max(0, len(emitted) - 1)
            sampled.append(emitted)
        self._propose(sampled)
        self.rows = [job for job in self.rows if len(job.text) < job.end]

    def _propose(self, sampled: list[list[int]]) -> None:
        most = self.proposer._most
        if any(len(job.text) + most > LONGEST for job in self.rows):  # as vLLM, which scores zeros then
            self.missed += 1
            for job in self.rows:
                job.draft = [0] * max(0, min(most, LONGEST - len(job.text) - 1))
            return
        tokens = np.zeros((SEATS, LONGEST + 10), np.int32)
        lengths = np.zeros(SEATS, np.int32)
        for row, job in enumerate(self.rows):
            tokens[row, : len(job.text)], lengths[row] = job.text, len(job.text)
        for job, draft in zip(
            self.rows, self.proposer.propose(sampled, lengths, tokens, slot_mappings=None), strict=True
        ):
            job.draft = draft
