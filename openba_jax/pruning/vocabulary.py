"""Prunes a sentencepiece vocabulary by token counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.padding import padded_vocab_size
from openba_jax.pruning.merges import merge_closure

# protobuf makes the class at run time.
_ModelProto: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]

SPECIAL_TOKENS = 103
"""Rows that follow the pieces: `<extra_id_99>` to `<extra_id_0>`, `<R>`, `<S>`, `<X>`.

Where the newline is a token of its own, its row follows these.
"""

_OTHER_SPELLINGS = 0.01
"""Share of a file's pieces that may be spelt in another way than the tokenizer's."""


@dataclasses.dataclass(frozen=True)
class PrunedVocabulary:
    """A smaller sentencepiece model and where its embedding rows come from.

    Attributes:
      model: the serialised sentencepiece model.
      pieces: number of pieces in it.
      rows: for each new embedding row the old one: pieces, special tokens, the newline if it is
        one, then padding that repeats the row of `<extra_id_99>`.
        `plan.narrow(plan.to_ancestor({"vocab": rows}))` enters them into the plan of the model that
        had the old vocabulary.
      merges: how many of the pieces were kept only because a BPE tokenizer joins others from them.
      newline: whether the newline is a token of its own, as it was.
    """

    model: bytes
    pieces: int
    rows: tuple[int, ...]
    merges: int
    newline: bool

    def save(self, path: str | Path) -> None:
        """Writes the sentencepiece model, and the settings beside it."""
        write_settings(path, TokenizerSettings(newline=self.newline))
        write_atomically(path, self.model)


def pieces_of(model: str | Path) -> list[str]:
    """The pieces of a sentencepiece model, by id.

    Raises:
      UserError: The model cannot be read.
    """
    return [piece.piece for piece in _read_model(model).pieces]


def prune_vocabulary(
    model: str | Path, counts: np.ndarray, size: int, newline: bool = False
) -> PrunedVocabulary:
    """Keeps the most frequent pieces, and all that are no ordinary text.

    Pieces whose type is not NORMAL (unknown, control, byte, user-defined) stay whatever their
    count, so that there may be more than `size`. Of a BPE model the pieces stay, too, that it joins
    on the way to a piece that is kept. Order and scores of pieces stay as they are. A text that was
    made of pieces that are kept is encoded as before; docs/pruning.md says why.

    Args:
      model: path of the sentencepiece model.
      counts: int `[ids]`, occurrences of each id, at most one per piece and special token; ids
        beyond the end count 0. Equal counts: lower id first.
      size: number of pieces to keep by frequency.
      newline: the newline is a token of its own, whose row follows the other special ones.

    Raises:
      UserError: The model cannot be read.
      UserError: The model is a BPE model with unused pieces.
      UserError: The counts name more ids than the model has.
      UserError: `size` is below the number of special tokens or above the number of pieces.
      UserError: No piece of text would be left.
    """
    proto = _read_model(model)
    total = len(proto.pieces)
    special_tokens = SPECIAL_TOKENS + newline
    if len(counts) > total + special_tokens:
        raise UserError(
            f"the counts go to id {len(counts) - 1}, but {model} has {total} pieces and "
            f"{special_tokens} special tokens; count with the tokenizer that is to be pruned."
        )
    if not SPECIAL_TOKENS <= size <= total:
        raise UserError(
            f"cannot prune a vocabulary of {total} pieces to {size}; choose at least the number of "
            f"special tokens, {SPECIAL_TOKENS}, and at most {total}."
        )
    frequency = np.zeros(total, np.int64)
    frequency[: min(total, len(counts))] = counts[:total]
    frequent = set(np.argsort(-frequency, kind="stable")[:size].tolist())
    normal = _ModelProto.SentencePiece.NORMAL
    kept = [i for i, piece in enumerate(proto.pieces) if i in frequent or piece.type != normal]
    if all(proto.pieces[i].type != normal for i in kept):
        raise UserError(
            f"the {size} most frequent pieces of {model} are bytes and controls alone; keep more, "
            "or count a corpus of text."
        )
    merges = _merges(proto, kept, model)
    kept = sorted([*kept, *merges])
    pruned = _ModelProto()
    pruned.CopyFrom(proto)
    del pruned.pieces[:]
    pruned.pieces.extend(proto.pieces[i] for i in kept)
    rows = [*kept, *range(total, total + special_tokens)]
    rows += [total] * (padded_vocab_size(len(rows)) - len(rows))
    return PrunedVocabulary(
        pruned.SerializeToString(), len(kept), tuple(rows), len(merges), newline
    )


def _merges(proto: Any, kept: Sequence[int], model: str | Path) -> Sequence[int]:
    """Further pieces that a BPE model needs to build those that are kept; none of other models."""
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        return ()
    piece_type = _ModelProto.SentencePiece
    if any(piece.type == piece_type.UNUSED for piece in proto.pieces):
        raise UserError(
            f"{model} is a BPE model with unused pieces, which take part in its merges and cannot "
            "be pruned; make these pieces normal ones, or train a tokenizer without them."
        )
    ids = {
        piece.piece: i
        for i, piece in enumerate(proto.pieces)
        if piece.type in (piece_type.NORMAL, piece_type.USER_DEFINED)
    }
    scores = {piece: proto.pieces[i].score for piece, i in ids.items()}
    wanted = [proto.pieces[i].piece for i in kept if proto.pieces[i].type == piece_type.NORMAL]
    present = set(kept)
    return sorted(i for piece in merge_closure(wanted, scores) if (i := ids[piece]) not in present)


def read_counts(path: str | Path, pieces: Sequence[str] = ()) -> np.ndarray:
    """Reads token counts, one token a line: `id count` or `piece id count`, in any order.

    Args:
      path: the file.
      pieces: those of the tokenizer that the file should be of, where it names pieces.

    Returns:
      int64 `[largest id + 1]`; ids that the file does not list count 0.

    Raises:
      UserError: The file is missing or empty.
      UserError: A line is not of these forms, or repeats an id.
      UserError: The pieces are not those of the tokenizer.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; it should list token counts.") from error
    counted: dict[int, int] = {}
    others: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # From the right: a piece may itself be a blank.
        fields = line.rsplit(maxsplit=2)[-2:]
        try:
            token, count = (int(field) for field in fields)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected `id count` or `piece id count`, "
                f"found {line.decode(errors='replace')!r}."
            ) from None
        if token < 0 or count < 0 or token in counted:
            raise UserError(f"{path}, line {number}: id {token} is negative or listed twice.")
        counted[token] = count
        named = line.decode("utf-8", "replace").rsplit(" ", 2)
        if len(named) == 3 and token < len(pieces) and named[0] != pieces[token]:
            others.append(f"line {number}: id {token} is {named[0]!r} and not {pieces[token]!r}")
    # Not at the first: odd pieces may be spelt in another way.
    if len(others) > _OTHER_SPELLINGS * len(counted):
        raise UserError(
            f"{path} counts the pieces of another tokenizer ({others[0]}); give counts that were "
            "made with the one that is pruned."
        )
    if not counted:
        raise UserError(f"{path} is empty; it should list token counts.")
    counts = np.zeros(max(counted) + 1, np.int64)
    counts[list(counted)] = list(counted.values())
    return counts


def sum_counts(paths: Sequence[str | Path], pieces: Sequence[str] = ()) -> np.ndarray:
    """Token counts of several stores together, int64 `[largest id + 1]`; see `read_counts`."""
    parts = [read_counts(path, pieces) for path in paths]
    total = np.zeros(max(map(len, parts)), np.int64)
    for part in parts:
        total[: len(part)] += part
    return total


def coverage(counts: np.ndarray) -> np.ndarray:
    """Share of all tokens that the K most frequent ids cover.

    Args:
      counts: int `[ids]`.

    Returns:
      float64 `[ids]`, entry K - 1 for K ids; ascending to 1.

    Raises:
      UserError: All counts are 0.
    """
    total = counts.sum(dtype=np.int64)
    if total == 0:
        raise UserError("no token was counted; count the tokens of a corpus that is not empty.")
    return np.cumsum(np.sort(counts)[::-1], dtype=np.int64) / total


def _read_model(path: str | Path) -> Any:
    """Parses a sentencepiece model."""
    proto = _ModelProto()
    try:
        proto.ParseFromString(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; it should be a sentencepiece model.") from error
    except DecodeError as error:
        raise UserError(f"{path} is not a sentencepiece model: {error}.") from error
    if not proto.pieces:
        raise UserError(f"{path} is not a sentencepiece model: it has no pieces.")
    return proto
