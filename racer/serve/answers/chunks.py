"""What streamed chunks hold, whatever their shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from racer.serve.text import Unit
from racer.serve.tools import CallUnit, Piece


def runs(pieces: Sequence[Piece], *, by_kind: bool) -> Iterator[list[Piece]]:
    """What one chunk can hold: text that runs on, or the arguments of one call.

    :param by_kind: of one kind only, drafted or not.
    """

    def alike(piece: Piece) -> tuple[object, ...]:
        call = piece.index if isinstance(piece, CallUnit) else -1
        return call, piece.drafted if by_kind else None

    for _, run in groupby(pieces, alike):
        yield list(run)


def joined(pieces: Sequence[Piece]) -> Piece:
    """One piece of several that are text, or of one call."""
    first, scores = pieces[0], tuple(score for piece in pieces for score in piece.scores)
    drafted = all(piece.drafted for piece in pieces)
    if isinstance(first, Unit):
        return Unit("".join(piece.text for piece in pieces if isinstance(piece, Unit)), drafted, scores)
    calls = [piece for piece in pieces if isinstance(piece, CallUnit)]
    arguments = "".join(piece.arguments for piece in calls)
    return CallUnit(first.index, arguments, drafted, first.id, first.name, scores)
