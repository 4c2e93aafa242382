"""Asking all voices about the children of one node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from racer.kernels.jit import Number, compiled
from racer.strategies.context import blends, cues
from racer.strategies.context.blends import BLENDS
from racer.strategies.context.candidates import Candidates, add, clear, describe, find, nominate, tell
from racer.strategies.context.cues import LONGEST
from racer.strategies.context.hashing import NO_TOKEN, Context
from racer.strategies.context.hints import DEPTHS, RECENT, Hints
from racer.strategies.context.history import next_token
from racer.strategies.context.matches import MOST as MOST_MATCHES
from racer.strategies.context.matches import Matches
from racer.strategies.context.memory import Memory, Row
from racer.strategies.context.odds import Odds, add_up
from racer.strategies.context.table import IDS, Ids, Probs, middle
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
    slots: NDArray[np.int64]
    """``[LONGEST + BLENDS]`` where the tables know the node's context; -1 where they do not."""
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
            np.empty(LONGEST + BLENDS, np.int64),
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
    add_up(memory.odds, candidates.unnamed, candidates.base)
    for i in range(evidence.spoken[0]):
        named = evidence.named[i]
        nominate(candidates, evidence.ids[i, :named], evidence.probs[i, :named], np.float32(least), vocab_size)
    for i in range(matches.found[node]):
        if 0 <= evidence.following[i] < vocab_size:
            add(candidates, evidence.following[i], 1)
    for i in range(evidence.spoken[0]):
        named = evidence.named[i]
        describe(
            candidates,
            memory.odds,
            evidence.voice[i],
            evidence.cell[i],
            evidence.ids[i, :named],
            evidence.probs[i, :named],
        )
    _describe_matches(evidence, memory.odds, matches, node, longest_match)
    _describe_echoes(candidates, memory.odds, context)


@compiled
def _say(evidence: Evidence, voice: int, cell: int, ids: Ids, probs: Probs) -> Number:
    """Note one statement: it is copied, so that all can be treated alike. The probability of all that it names."""
    at, named, mass, most = evidence.spoken[0], 0, np.float32(0), min(len(ids), evidence.ids.shape[1])
    evidence.voice[at], evidence.cell[at] = voice, cell
    while named < most and ids[named] != NO_TOKEN and probs[named] > FAINT:
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
    unnamed, split, slots = evidence.candidates.unnamed, middle(memory.cues.words), evidence.slots
    cues.find(memory.cues, context, slots[LATEST : LATEST + LONGEST])  # all, so that the memory is waited for once
    for kind in range(BLENDS):
        slots[BLENDED + kind] = blends.find(memory.blends, context, kind)
    for voice in range(LATEST, LATEST + LONGEST):
        slot = slots[voice]
        if slot >= 0 and memory.heard[voice]:
            cell = FIRST[voice] + cues.trust(memory.cues, slot, asker) * SAID
            mass = _say(evidence, voice, cell, memory.cues.words[slot, IDS:split], memory.cues.reals[slot, split:])
            unnamed[voice] = cell + nameless_bin(mass)
    for voice in range(BLENDED, BLENDED + BLENDS):
        slot, cell = slots[voice], FIRST[voice]
        if slot >= 0 and memory.heard[voice]:
            mass = _say(evidence, voice, cell, memory.blends.words[slot, IDS:split], memory.blends.reals[slot, split:])
            unnamed[voice] = cell + nameless_bin(mass)


@compiled
def _hear_hints(evidence: Evidence, memory: Memory, hints: Hints, depth: int) -> None:
    """What the latest predictions and the rejected guesses say of the children of a node at ``depth``."""
    unnamed = evidence.candidates.unnamed
    recents = hints.recents[0] if memory.heard[NEAR] else 0
    if recents > 0:
        unnamed[NEAR], unnamed[FAR] = FIRST[NEAR], FIRST[FAR]
    for recent in range(min(recents, REACH - depth)):
        voice = NEAR if recent == 0 else FAR
        cell = FIRST[voice] + 1 + (depth + recent) * PROB_BINS
        heard = len(hints.recent_ids[0]) if recent == 0 else FAR_HEARD
        _say(evidence, voice, cell, hints.recent_ids[recent, :heard], hints.recent_probs[recent, :heard])
    if depth < DEPTHS and hints.aligned_ids[depth, 0] != NO_TOKEN and memory.heard[ALIGNED]:
        cell = FIRST[ALIGNED] + depth * SAID
        mass = _say(evidence, ALIGNED, cell, hints.aligned_ids[depth], hints.aligned_probs[depth])
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
def _describe_matches(evidence: Evidence, odds: Odds, matches: Matches, node: int, longest: int) -> None:
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
        tell(candidates, odds, at, MATCH, FIRST[MATCH] + length_bin(longest) * LENGTHS + of_all)
        tell(candidates, odds, at, VOTES, FIRST[VOTES] + (own * (MOST_VOTES + 1) + count) * (MOST_VOTES + 1) + votes)


@compiled
def _describe_echoes(candidates: Candidates, odds: Odds, context: Context) -> None:
    """Give the candidates that were just said the cells of :data:`ECHO`."""
    for i in range(len(context)):
        at = find(candidates, context[i])
        if at >= 0:
            tell(candidates, odds, at, ECHO, echo_cell(i + 1))
