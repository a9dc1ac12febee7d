"""Which pieces of a sentencepiece model stay, and the model of those."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.sentencepiece_proto import ModelProto, PieceType
from openba_jax.errors import UserError
from openba_jax.pruning.pieces.merges import merge_closure


def prune(
    content: bytes, vocabulary: Vocabulary, frequent: Set[int]
) -> tuple[bytes, list[int], int]:
    """A sentencepiece model with fewer pieces.

    Args:
      content: the serialised model.
      vocabulary: of it.
      frequent: the pieces to keep, by id.

    Returns:
      The new model; the ids of the pieces that stay, ascending; how many of them stay for the way
      to others alone.

    Raises:
      UserError: The model is a BPE model with unused pieces.
      UserError: No piece of text would be left.
    """
    proto, path = ModelProto.FromString(content), vocabulary.path
    special = {*vocabulary.special_tokens().values()}
    kept = [
        i
        for i, piece in enumerate(proto.pieces)
        if i in frequent or piece.type != PieceType.NORMAL or i in special
    ]
    if all(proto.pieces[i].type != PieceType.NORMAL for i in kept):
        raise UserError(
            f"the {len(frequent)} most frequent pieces of {path} are bytes and controls alone; "
            "keep more, or count a corpus of text."
        )
    merges = _merges(proto, kept, path)
    kept = sorted([*kept, *merges])
    pruned = ModelProto()
    pruned.CopyFrom(proto)
    del pruned.pieces[:]
    pruned.pieces.extend(proto.pieces[i] for i in kept)
    return pruned.SerializeToString(), kept, len(merges)


def _merges(proto: Any, kept: Sequence[int], path: Path) -> Sequence[int]:
    """Further pieces that a BPE model needs to build those that are kept; none of other models.

    Single characters are among them, which other programs that read the model need.
    """
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        return ()
    if any(piece.type == PieceType.UNUSED for piece in proto.pieces):
        raise UserError(
            f"{path} is a BPE model with unused pieces, which take part in its merges and cannot "
            "be pruned; make these pieces normal ones, or train a tokenizer without them."
        )
    ids = {
        piece.piece: i
        for i, piece in enumerate(proto.pieces)
        if piece.type in (PieceType.NORMAL, PieceType.USER_DEFINED)
    }
    scores = {piece: proto.pieces[i].score for piece, i in ids.items()}
    wanted = [proto.pieces[i].piece for i in kept if proto.pieces[i].type == PieceType.NORMAL]
    closure = merge_closure(wanted, scores)
    # Sentencepiece joins characters that are no pieces; `transformers` does not.
    needed = closure | {character for piece in closure for character in piece if character in ids}
    return sorted({ids[piece] for piece in needed} - set(kept))
