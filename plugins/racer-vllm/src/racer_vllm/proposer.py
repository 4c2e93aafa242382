"""The class that vLLM asks for drafts."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from racer.drafting import Draft, Figures, Session, Told
from racer_vllm.cues import Best, Cues
from racer_vllm.settings import Settings
from racer_vllm.texts import Text, Texts

log = logging.getLogger("vllm.racer")  # vLLM shows what its own loggers say

FAULTS = 3
"""After so many errors of ours nothing is drafted any more."""
REPORT_SECONDS = 60.0


class Proposer:
    """Drafts chains for vLLM's verification, with RACER's drafters.

    ``speculative_config={"method": "custom_class", "model": "racer_vllm.Proposer", "num_speculative_tokens": 8}``. Each
    step vLLM says what came in each row, and not whose rows they are: texts are told apart by their tokens
    (:mod:`racer_vllm.texts`). An error of ours is logged and costs drafts; vLLM would end at one.

    :param vllm_config: vLLM's; the drafter and its settings come from the environment (:class:`Settings`).
    :raises ConfigError: a setting that is none, or out of range.
    :raises UnknownStrategy: nobody registered a drafter of this name.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._settings = Settings.read(os.environ)
        self._most: int = vllm_config.speculative_config.num_speculative_tokens
        self._longest: int = vllm_config.model_config.max_model_len
        self._vocab_size: int = vllm_config.model_config.get_vocab_size()
        self._faults = 0
        self._reported = time.monotonic()
        self._begin()
        needs, most_rows = self._session.needs, vllm_config.scheduler_config.max_num_seqs * (self._most + 1)
        self._cues = Cues(needs.top_k, most_rows) if needs.top_k else None

    @property
    def figures(self) -> Figures:
        """What was drafted and accepted."""
        return self._session.figures

    def load_model(self, model: Any) -> None:
        """vLLM has loaded the model whose texts these are."""
        if self._cues is not None:
            self._cues.watch(model, self._cues_failed)

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: NDArray[np.int32],
        token_ids_cpu: NDArray[np.int32],
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """A chain for each row, of ``num_speculative_tokens`` at most.

        :param sampled_token_ids: each row's new tokens; none where its prompt is not through.
        :param num_tokens_no_spec: ``[B]`` tokens of each row, the new ones included.
        :param token_ids_cpu: ``[B, L]`` the tokens.
        :param slot_mappings: not used.
        """
        nothing: list[list[int]] = [[] for _ in sampled_token_ids]
        if self._faults >= FAULTS:
            return nothing
        try:
            drafts = self._propose(sampled_token_ids, num_tokens_no_spec, token_ids_cpu)
            self._report()
        except Exception as error:
            self._failed(error)
            return nothing
        return drafts

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._session = Session(
            self._settings.drafter,
            vocab_size=self._vocab_size,
            most=self._most,
            cues=self._settings.cues,
            least_score=self._settings.least_score,
        )
        self._texts = Texts()
        self._ended = 0.0
        """When the last step's drafts were made."""
        self._drafted: frozenset[int] = frozenset()
        """The texts that they were made for."""

    def _failed(self, error: Exception) -> None:
        """Begin anew, as what is known of texts may not be what they are any more; or stop."""
        self._faults += 1
        if self._faults < FAULTS:
            log.warning("RACER failed, which costs drafts", exc_info=error)
            try:
                self._begin()
            except Exception as another:
                self._faults, error = FAULTS, another
            else:
                return
        if self._cues is not None:
            self._cues.stop()
        log.warning("RACER failed; nothing is drafted any more", exc_info=error)

    def _cues_failed(self, error: Exception) -> None:
        log.warning("RACER could not look at logits, and drafts without them", exc_info=error)

    def _propose(
        self, sampled: Sequence[Sequence[int]], lengths: NDArray[np.int32], tokens: NDArray[np.int32]
    ) -> list[list[int]]:
        began = time.perf_counter()
        self._texts.step += 1
        rows = [self._row(row, emitted, tokens[row, : lengths[row]]) for row, emitted in enumerate(sampled)]
        told, sure = self._told(rows)
        there = [row for row in rows if row.text is not None]
        for text in self._texts.ended():
            self._session.close(text.key)
        drafts = self._session.step(told, milliseconds=self._milliseconds(rows, began) if sure else None)
        proposed: list[list[int]] = [[] for _ in rows]
        for one, draft in zip(there, drafts, strict=True):
            assert one.text is not None
            room = self._longest - one.text.length - 1
            cut = Draft(draft.tokens[:room], draft.parents[:room], draft.scores[:room]) if room > 0 else None
            one.text.draft = cut
            proposed[one.index] = [] if cut is None else cut.tokens.tolist()
        self._drafted = frozenset(one.text.key for one in there if one.text is not None)
        self._ended = time.perf_counter()
        return proposed

    def _row(self, index: int, emitted: Sequence[int], tokens: NDArray[np.int32]) -> _Row:
        """Whose row it is, and what has come; a text that is new is opened."""
        if not len(emitted):
            return _Row(index, (), None)
        before, new = tokens[: -len(emitted)], tokens[-len(emitted) :]
        text = self._texts.find(index, before)
        missed = text is not None and text.length < len(before)
        if text is not None and missed:
            self._texts.catch_up(text, before)
            self._session.open(text.key, before.tolist())
        pending = text.draft if text is not None and text.seen == self._texts.step - 1 else None
        if text is None:
            if not len(before) or before.min() < 0 or before.max() >= self._vocab_size:
                return _Row(index, (), None)  # a prompt of embeddings, or of tokens that only the model knows
            text = self._texts.begin(index, before)
            self._session.open(text.key, before.tolist(), limit=self._longest - len(before))
        self._texts.go_on(text, index, new)
        return _Row(index, new.tolist(), text, int(before[-1]), pending, missed)

    def _told(self, rows: Sequence[_Row]) -> tuple[list[Told], bool]:
        """With what the model thought of drafts, where it is clear which logits were whose; and whether, as far as can
        be seen, all drafts were scored.

        All rows, in their order, have a row of logits for each scored token. vLLM may cut drafts, and does not say so:
        there are fewer logits then, and this step is told without them.
        """
        cues = self._cues if self._cues is not None and self._cues.on else None
        best = None if cues is None else cues.take(sum(row.scored for row in rows))
        missed = any(row.missed for row in rows)
        if missed:  # what was seen is of the first step without us
            best = None
        told, at = [], 0
        for row in rows:
            if row.text is not None:
                told.append(row.told(None if best is None else best.part(at, at + row.scored)))
            at += row.scored
        return told, not missed and (cues is None or best is not None)

    def _milliseconds(self, rows: Sequence[_Row], began: float) -> float | None:
        """What the engine's step has taken, if it was one over drafts alone, and nothing else went between."""
        texts = [row.text.key if row.text is not None else None for row in rows]
        alone = None not in texts and frozenset(texts) <= self._drafted
        return 1000 * (began - self._ended) if alone and rows else None

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        figures = self.figures
        log.info(
            "RACER drafts: %.2f mean accepted tokens a step, %.2f a drafted step, %d of %d drafted tokens accepted",
            figures.accepted_per_step,
            figures.accepted_per_drafted_step,
            figures.accepted,
            figures.drafted,
        )


@attrs.frozen(eq=False)
class _Row:
    """A row of a step."""

    index: int
    emitted: Sequence[int]
    text: Text | None
    """None where nothing came, or nothing can be drafted."""
    root: int = 0
    """The text's last token before the step."""
    drafted: Draft | None = None
    missed: bool = False
    """Whether vLLM made steps of it without asking for drafts, as it does near the longest text."""

    @property
    def scored(self) -> int:
        """Tokens that have logits, if vLLM has cut nothing."""
        return 1 + (0 if self.drafted is None else len(self.drafted))

    def told(self, best: Best | None) -> Told:
        """What the session learns of it."""
        assert self.text is not None
        scored = [] if self.drafted is None else self.drafted.tokens.tolist()
        right = list(self.emitted[:-1])
        if best is None or right != scored[: len(right)]:
            return Told(self.text.key, self.emitted)
        return Told(self.text.key, self.emitted, [self.root, *scored], None, best.ids, best.probs)
