"""Which pieces a byte-pair tokenizer needs to build other pieces.

Sentencepiece joins the two neighbours whose joint piece has the best score (`merge_closure`);
a `tokenizer.json` lists pairs in the order in which they are joined (`pair_closure`).

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


def pair_closure(pieces: Iterable[str], ranks: Mapping[tuple[str, str], int]) -> Set[str]:
    """`merge_closure` for a list of merges, together with the single characters.

    As there, the merges of a text whose pieces are all wanted lie within these pieces, and stay.
    Of those that are left at any step the first in the list is the same one as before, so that the
    text is encoded the same by any part of the list that has them.

    Args:
      pieces: those that are wanted.
      ranks: the place of each pair in the list of merges.

    Returns:
      The wanted pieces, what their characters are joined to, and these characters.
    """
    closure = set(pieces)
    for piece in tuple(closure):
        closure.update(piece)
        closure.update(_pair_merges(piece, ranks))
    return closure


def _pair_merges(piece: str, ranks: Mapping[tuple[str, str], int]) -> Iterable[str]:
    """What the characters of a piece are joined to, in this order."""
    symbols, last = list(piece), len(ranks)
    while len(symbols) > 1:
        found = [ranks.get(pair, last) for pair in itertools.pairwise(symbols)]
        best = min(range(len(found)), key=found.__getitem__)  # Of equal ranks the leftmost.
        if found[best] == last:
            return
        symbols[best : best + 2] = [symbols[best] + symbols[best + 1]]
        yield symbols[best]
