"""Asking all voices about the children of one node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context import blends, cues
from racer.strategies.context.blends import BLENDS
from racer.strategies.context.candidates import Candidates, add, clear, describe, find, nominate
from racer.strategies.context.compiled import Number, compiled
from racer.strategies.context.cues import LONGEST, Ids, Probs
from racer.strategies.context.hashing import NO_TOKEN, Context
from racer.strategies.context.hints import DEPTHS, RECENT, Hints
from racer.strategies.context.history import next_token
from racer.strategies.context.matches import MOST as MOST_MATCHES
from racer.strategies.context.matches import Matches
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.voices import (
    ALIGNED,
    BLENDED,
    ECHO,
    FAR,
    FIRST,
    LATEST,
    LENGTH_BINS,
    MATCH,
    MOST_VOTES,
    NEAR,
    PROB_BINS,
    REACH,
    SAID,
    VOTES,
    echo_cell,
    length_bin,
    nameless_bin,
    note_circumstances,
)

FAINT = np.float32(0.002)
"""A voice is not heard to name what it gives less than this."""
FAR_HEARD = 6
"""Tokens taken from each of the older recent predictions."""
STATEMENTS = LONGEST + BLENDS + RECENT + 1
LENGTHS = LENGTH_BINS + 1


class Evidence(NamedTuple):
    """About the children of one node; used again for the next."""

    candidates: Candidates
    voice: NDArray[np.int64]
    """``[STATEMENTS]`` who names the tokens of a statement, ..."""
    cell: NDArray[np.int64]
    """``[STATEMENTS]`` ... and the cell of the lowest probability."""
    named: NDArray[np.int64]
    """``[STATEMENTS]`` how many tokens it names."""
    ids: Ids
    """``[STATEMENTS, k]`` best first."""
    probs: Probs
    """``[STATEMENTS, k]``"""
    spoken: NDArray[np.int64]
    """``[1]`` statements."""
    following: NDArray[np.int32]
    """``[MOST_MATCHES]`` how each match goes on."""

    @classmethod
    def of(cls, k: int) -> Evidence:
        """None yet; statements name up to ``k`` tokens."""
        return cls(
            Candidates.empty(),
            np.empty(STATEMENTS, np.int64),
            np.empty(STATEMENTS, np.int64),
            np.empty(STATEMENTS, np.int64),
            np.empty((STATEMENTS, k), np.int32),
            np.empty((STATEMENTS, k), np.float32),
            np.zeros(1, np.int64),
            np.empty(MOST_MATCHES, np.int32),
        )


@compiled
def collect(
    evidence: Evidence,
    memory: Memory,
    row: Row,
    matches: Matches,
    node: int,
    context: Context,
    depth: int,
    chance: Number,
    vocab_size: int,
    least: Number,
) -> None:
    """Fill in the children that ``node`` may get, with what every voice says of each.

    First all voices nominate, then all describe: one that would not have nominated a candidate may still know it.

    :param context: the tokens up to the node, the latest first.
    :param depth: of the node.
    :param chance: estimated, of the node itself.
    :param least: candidates less likely than this are not wanted.
    """
    candidates = evidence.candidates
    clear(candidates)
    evidence.spoken[0] = 0
    note_circumstances(candidates.unnamed, row.hints.success[0], depth, chance)
    _hear_cues(evidence, memory, context, row.hints.asker[0])
    longest_match = _hear_matches(evidence, matches, node, memory, row)
    _hear_hints(evidence, memory, row.hints, depth)
    for i in range(evidence.spoken[0]):
        named = evidence.named[i]
        nominate(candidates, evidence.ids[i, :named], evidence.probs[i, :named], np.float32(least), vocab_size)
    for i in range(matches.found[node]):
        if 0 <= evidence.following[i] < vocab_size:
            add(candidates, evidence.following[i], 1)
    for i in range(evidence.spoken[0]):
        named = evidence.named[i]
        describe(candidates, evidence.voice[i], evidence.cell[i], evidence.ids[i, :named], evidence.probs[i, :named])
    _describe_matches(evidence, matches, node, longest_match)
    for i in range(candidates.used[0]):
        candidates.cells[i, ECHO] = echo_cell(context, candidates.tokens[i])


@compiled
def _say(evidence: Evidence, voice: int, cell: int, ids: Ids, probs: Probs, most: int) -> Number:
    """Note one statement: it is copied, so that all can be treated alike. The probability of all that it names."""
    at, named, mass = evidence.spoken[0], 0, np.float32(0)
    evidence.voice[at], evidence.cell[at] = voice, cell
    while named < min(most, len(ids)) and ids[named] != NO_TOKEN and probs[named] > FAINT:
        evidence.ids[at, named] = ids[named]
        evidence.probs[at, named] = probs[named]
        mass += probs[named]
        named += 1
    evidence.named[at] = named
    evidence.spoken[0] = at + 1
    return mass


@compiled
def _hear_cues(evidence: Evidence, memory: Memory, context: Context, asker: int) -> None:
    """The cues and blends of a context."""
    unnamed, k = evidence.candidates.unnamed, evidence.ids.shape[1]
    for n in range(LONGEST):
        slot = cues.find(memory.cues, context, n + 1)
        if slot >= 0 and memory.heard[LATEST + n]:
            cell = FIRST[LATEST + n] + cues.trust(memory.cues, slot, asker) * SAID
            mass = _say(evidence, LATEST + n, cell, memory.cues.ids[slot], memory.cues.probs[slot], k)
            unnamed[LATEST + n] = cell + nameless_bin(mass)
    for kind in range(BLENDS):
        slot = blends.find(memory.blends, context, kind)
        if slot >= 0 and memory.heard[BLENDED + kind]:
            cell = FIRST[BLENDED + kind]
            mass = _say(evidence, BLENDED + kind, cell, memory.blends.ids[slot], memory.blends.probs[slot], k)
            unnamed[BLENDED + kind] = cell + nameless_bin(mass)


@compiled
def _hear_hints(evidence: Evidence, memory: Memory, hints: Hints, depth: int) -> None:
    """What the latest predictions and the rejected guesses say of the children of a node at ``depth``."""
    unnamed, k = evidence.candidates.unnamed, evidence.ids.shape[1]
    recents = hints.recents[0] if memory.heard[NEAR] else 0
    if recents > 0:
        unnamed[NEAR], unnamed[FAR] = FIRST[NEAR], FIRST[FAR]
    for recent in range(min(recents, REACH - depth)):
        voice = NEAR if recent == 0 else FAR
        cell = FIRST[voice] + 1 + (depth + recent) * PROB_BINS
        _say(
            evidence, voice, cell, hints.recent_ids[recent], hints.recent_probs[recent], k if recent == 0 else FAR_HEARD
        )
    if depth < DEPTHS and hints.aligned_ids[depth, 0] != NO_TOKEN and memory.heard[ALIGNED]:
        cell = FIRST[ALIGNED] + depth * SAID
        mass = _say(evidence, ALIGNED, cell, hints.aligned_ids[depth], hints.aligned_probs[depth], k)
        unnamed[ALIGNED] = cell + nameless_bin(mass)


@compiled
def _hear_matches(evidence: Evidence, matches: Matches, node: int, memory: Memory, row: Row) -> Number:
    """Look up how the node's matches go on; the length of the longest one that does."""
    longest, count = 0, matches.found[node]
    for i in range(count):
        history = row.text if matches.own[node, i] else memory.past
        evidence.following[i] = next_token(history, matches.end[node, i])
        if evidence.following[i] != NO_TOKEN:
            longest = max(longest, matches.length[node, i])
    if longest > 0:
        evidence.candidates.unnamed[MATCH] = FIRST[MATCH] + length_bin(longest) * LENGTHS
        evidence.candidates.unnamed[VOTES] = FIRST[VOTES] + count * (MOST_VOTES + 1)
    return longest


@compiled
def _describe_matches(evidence: Evidence, matches: Matches, node: int, longest: int) -> None:
    """Give each match's candidate the cells of its longest match and of its votes."""
    candidates, count = evidence.candidates, matches.found[node]
    for i in range(count):
        at = find(candidates, evidence.following[i])
        if at < 0:
            continue
        votes, own, length = 0, False, 0
        for j in range(count):
            if evidence.following[j] == evidence.following[i]:
                votes += 1
                own = own or matches.own[node, j]
                length = max(length, matches.length[node, j])
        of_all = LENGTH_BINS if length == longest else length_bin(length)
        candidates.cells[at, MATCH] = FIRST[MATCH] + length_bin(longest) * LENGTHS + of_all
        candidates.cells[at, VOTES] = FIRST[VOTES] + (own * (MOST_VOTES + 1) + count) * (MOST_VOTES + 1) + votes
