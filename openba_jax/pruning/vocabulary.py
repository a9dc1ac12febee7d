"""Prunes vocabularies by token counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openba_jax.data.vocabularies.registry import open_vocabulary, tokenizer_file
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.padding import VOCABULARY_MULTIPLE
from openba_jax.pruning.pieces import of_json, of_sentencepiece

SPECIAL_TOKENS = 103
"""Rows that follow OpenBA's pieces: `<extra_id_99>` to `<extra_id_0>`, `<R>`, `<S>`, `<X>`.

Where the newline is a token of its own, its row follows these.
"""

_OTHER_SPELLINGS = 0.01
"""Share of a file's pieces that may be spelt in another way than the tokenizer's."""


@dataclasses.dataclass(frozen=True)
class PrunedVocabulary:
    """A smaller tokenizer and where its embedding rows come from.

    Attributes:
      model: the content of its file: a serialised sentencepiece model, or a `tokenizer.json`.
      settings: what belongs beside it, as it was.
      file: the name of its file in a model folder.
      pieces: number of pieces in it.
      rows: for each new embedding row the old one: pieces, special tokens, the newline if it is
        one, then padding, if any is asked for, that repeats the row of `<extra_id_99>` (of other
        kinds than OpenBA's, of padding). Rows that no token had before are dropped.
        `plan.narrow(plan.to_ancestor({"vocab": rows}))` enters them into the plan of the model that
        had the old vocabulary.
      merges: how many of the pieces were kept only because a BPE tokenizer joins others from them.
    """

    model: bytes
    settings: TokenizerSettings
    file: str
    pieces: int
    rows: tuple[int, ...]
    merges: int

    def save(self, path: str | Path) -> None:
        """Writes the file of the tokenizer, and the settings beside it."""
        write_settings(path, self.settings)
        write_atomically(path, self.model)


def pieces_of(tokenizer: str | Path) -> list[str]:
    """The pieces of a tokenizer's file, by id.

    Raises:
      UserError: The file cannot be read.
    """
    vocabulary = open_vocabulary(tokenizer)
    return vocabulary.pieces(range(vocabulary.piece_count))


def prune_vocabulary(
    tokenizer: str | Path,
    counts: np.ndarray,
    size: int,
    *,
    newline: bool | None = None,
    pad_to: int | None = None,
) -> PrunedVocabulary:
    """Keeps the most frequent pieces, and all that are no ordinary text.

    Pieces that are unknown, control, bytes, letters of bytes, added tokens or defined by the user
    stay whatever their count, so that there may be more than `size`. Of a BPE tokenizer the pieces
    stay, too, that it joins on the way to a piece that is kept. Order and scores of pieces and the
    order of merges stay as they are. A text that was made of pieces that are kept is encoded as
    before; docs/pruning.md says why.

    Args:
      tokenizer: path of the file.
      counts: int `[ids]`, occurrences of each id, at most one per piece and special token; ids
        beyond the end count 0. Equal counts: lower id first.
      size: number of pieces to keep by frequency.
      newline: the newline is a token of its own, whose row follows the other special ones; None: as
        the settings say.
      pad_to: the number of rows becomes a multiple of this; None: of 128 for OpenBA's, which the
        family asks for, and of 1 for others.

    Raises:
      UserError: The tokenizer cannot be read, or is of a kind that cannot be pruned.
      UserError: The model is a BPE model with unused pieces.
      UserError: The counts name more ids than the tokenizer has.
      UserError: `size` is below the number of OpenBA's special tokens, or 1, or above the number of
        pieces.
      UserError: No piece of text would be left.
    """
    vocabulary = open_vocabulary(tokenizer, newline)
    total, is_openba = vocabulary.piece_count, vocabulary.kind == "openba"
    if len(counts) > vocabulary.token_count:
        raise UserError(
            f"the counts go to id {len(counts) - 1}, but {tokenizer} has {total} pieces and "
            f"{vocabulary.token_count - total} special tokens; count with the tokenizer that is to "
            "be pruned."
        )
    if is_openba and not SPECIAL_TOKENS <= size <= total:
        raise UserError(
            f"cannot prune a vocabulary of {total} pieces to {size}; choose at least the number of "
            f"special tokens, {SPECIAL_TOKENS}, and at most {total}."
        )
    if not 1 <= size <= total:
        raise UserError(
            f"cannot prune a vocabulary of {total} pieces to {size}; choose 1 to {total}."
        )
    frequent = _frequent(counts, size, total)
    content = vocabulary.path.read_bytes()
    prune = of_json.prune if vocabulary.kind == "json" else of_sentencepiece.prune
    model, kept, merges = prune(content, vocabulary, frequent)
    # The special tokens that are no pieces; of a tokenizer.json they are among those kept.
    behind = set(vocabulary.special_tokens().values()) - set(range(total)) - set(kept)
    rows = [*kept, *sorted(behind)]
    multiple = pad_to or (VOCABULARY_MULTIPLE if is_openba else 1)
    rows += [total if is_openba else vocabulary.pad_id] * (-len(rows) % multiple)
    return PrunedVocabulary(
        model,
        vocabulary.settings,
        tokenizer_file(vocabulary),
        sum(i < total for i in kept),
        tuple(rows),
        merges,
    )


def _frequent(counts: np.ndarray, size: int, total: int) -> set[int]:
    """The ids of the most frequent pieces."""
    frequency = np.zeros(total, np.int64)
    frequency[: min(total, len(counts))] = counts[:total]
    return set(np.argsort(-frequency, kind="stable")[:size].tolist())


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
