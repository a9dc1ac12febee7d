"""Which pieces a byte-pair tokenizer needs to build other pieces.

A BPE tokenizer starts from single characters and joins, again and again, the two neighbours whose
joint piece has the best score. A piece of several characters therefore passes through smaller
pieces, its merges. Without them it is never reached, however often it occurs in a text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Set


def merge_closure(pieces: Iterable[str], scores: Mapping[str, float]) -> Set[str]:
    """Pieces together with all that the tokenizer joins on the way to them.

    Merges never cross the borders of the pieces that come out. So the way to a piece is the same
    in every text, and a text whose pieces are all in `pieces` is encoded the same with the closure
    as with all of `scores`: at every step the best merge is still there, and no better one is new.

    Args:
      pieces: those that are wanted.
      scores: of all pieces of the tokenizer. Single characters need no piece to be joined.

    Returns:
      The wanted pieces and their merges. A piece that the tokenizer never arrives at adds the
      merges that its characters do go through.
    """
    closure = set(pieces)
    for piece in tuple(closure):
        closure.update(_merges(piece, scores))
    return closure


def _merges(piece: str, scores: Mapping[str, float]) -> Iterable[str]:
    """What the characters of a piece are joined to, in this order."""
    symbols = list(piece)
    while len(symbols) > 1:
        joined = [left + right for left, right in itertools.pairwise(symbols)]
        # Of equal scores the leftmost, as `max` does.
        best = max(range(len(joined)), key=lambda i: scores.get(joined[i], float("-inf")))
        if joined[best] not in scores:
            return
        symbols[best : best + 2] = [joined[best]]
        yield joined[best]
