"""Learning from a scored tree: which guesses were right, and what the model thought at every node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from racer.strategies.context.blends import stir_in
from racer.strategies.context.compiled import compiled
from racer.strategies.context.cues import LONGEST, Ids, Probs, remember
from racer.strategies.context.growth import Growth
from racer.strategies.context.hashing import NO_TOKEN, Context
from racer.strategies.context.hints import RECENT, Hints, note_recent, note_rejected, note_success
from racer.strategies.context.memory import Memory
from racer.strategies.context.odds import Floats, Odds, count

Nodes = NDArray[np.int64]


@compiled
def calibrate(
    odds: Odds,
    hints: Hints,
    growth: Growth,
    drafted: int,
    accepted: NDArray[np.bool_],
    last: int,
    next_token: int,
    total: Floats,
) -> None:
    """Count right and wrong guesses among the children of accepted nodes; of the others nothing is known.

    Nodes that a budget cut off count too: what followed their parents is known all the same. Else only the candidates
    that were thought best would ever be counted, and all others overrated.

    :param growth: the tree as it was grown, ``drafted`` nodes, of which the first ones were scored.
    :param accepted: ``[scored]``
    :param last: the last accepted node, after which ``next_token`` came.
    :param total: ``[SIZE]`` is overwritten.
    """
    scored = len(accepted)
    note_success(hints, accepted.sum() - 1)
    for node in range(1, drafted):
        parent = growth.parent[node]
        if parent < scored and accepted[parent]:
            right = accepted[node] if node < scored else parent == last and growth.tokens[node] == next_token
            count(odds, growth.notes[node], right, total)


def observe(
    memory: Memory,
    hints: Hints,
    root: Context,
    tokens: Nodes,
    parent: Nodes,
    score: Probs,
    accepted: NDArray[np.bool_],
    ids: Ids,
    probs: Probs,
) -> None:
    """Remember what the model thought at every node of a tree, rejected ones too, accepted ones last.

    :param root: the tokens up to the root, the latest first.
    :param tokens, parent, score, accepted: ``[N]``; parents stand before their children.
    :param ids, probs: ``[N, k]`` best next tokens of every node; those of a node that starts with -1 are unknown.
    """
    contexts, depth = np.empty((len(tokens), LONGEST), np.int32), np.empty(len(tokens), np.int32)
    _observe(memory, hints, root, tokens, parent, score, accepted, ids, probs, contexts, depth)


@compiled
def _observe(
    memory: Memory,
    hints: Hints,
    root: Context,
    tokens: Nodes,
    parent: Nodes,
    score: Probs,
    accepted: NDArray[np.bool_],
    ids: Ids,
    probs: Probs,
    contexts: NDArray[np.int32],
    depth: NDArray[np.int32],
) -> None:
    """``contexts [N, LONGEST]`` and ``depth [N]`` are filled in here."""
    nodes, length = len(tokens), 0
    depth[0] = 0
    for i in range(LONGEST):
        contexts[0, i] = root[i]
    for node in range(1, nodes):
        contexts[node, 0] = tokens[node]
        for i in range(1, LONGEST):
            contexts[node, i] = contexts[parent[node], i - 1]
        depth[node] = depth[parent[node]] + 1
    for turn in range(2):
        for node in range(nodes):
            if accepted[node] == (turn == 1) and ids[node, 0] != NO_TOKEN:
                remember(memory.cues, contexts[node], ids[node], probs[node], accepted[node], hints.asker[0])
                stir_in(memory.blends, contexts[node], ids[node], probs[node], accepted[node])
    for node in range(nodes):
        length += accepted[node]
    for node in range(nodes):
        if accepted[node] and depth[node] >= length - RECENT and ids[node, 0] != NO_TOKEN:
            note_recent(hints, ids[node], probs[node])
    note_rejected(hints, depth, score, length, ids, probs)
