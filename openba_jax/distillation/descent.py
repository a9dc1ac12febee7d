"""Which rows, layers and channels of a teacher a student has.

With one tokenizer nothing need be known of a teacher but that: any size will do. After a cut of the
vocabulary, and where hidden states are compared, the pruning plans say what the student keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from openba_jax.checkpoints import model_folder
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB
from openba_jax.models.base import Model
from openba_jax.pruning.plan import Plan, relative


@dataclasses.dataclass(frozen=True)
class Party:
    """Teacher or student, as it lies on disk; no parameters.

    Attributes:
      model: the model.
      plan: what it keeps of its ancestor; None: it is one.
      tokenizer: its file; None: it has no text.
      name: for messages.
    """

    model: Model
    plan: Plan | None
    tokenizer: Path | None
    name: str


@dataclasses.dataclass(frozen=True)
class Rows:
    """What the rows of a student's vocabulary are in its teacher's.

    Attributes:
      kept: for each row of the student the teacher's.
      real: how many of them stand for tokens; those behind repeat one, and only pad.
    """

    kept: tuple[int, ...]
    real: int


def descent(student: Party, teacher: Party) -> dict[str, Any]:
    """What the student keeps of the teacher, in the teacher's numbering (`pruning.plan.relative`).

    Raises:
      UserError: the plans do not say so: the student does not descend from the teacher.
    """
    child, parent = student.plan, teacher.plan
    if child is None:
        if parent is None and _same_network(student.model, teacher.model):
            return {}
        raise UserError(
            f"{student.name} has no pruning plan, so that nothing says what it keeps of "
            f"{teacher.name}; give a student that was cut from the teacher."
        )
    if parent is None:
        if not _same_network(child.ancestor_model, teacher.model):
            raise UserError(
                f"{student.name} does not descend from {teacher.name}: its plan names an ancestor "
                f"of another shape ({child.source}); give that ancestor as TEACHER."
            )
        if Path(child.source).name != Path(teacher.name).name:
            logging.warning(
                "the plan of %s names %s as its ancestor; %s is taken for it, as it has its shape.",
                *(student.name, child.source, teacher.name),
            )
        parent = Plan(child.ancestor, child.source)
    try:
        return relative(child, parent)
    except UserError as error:
        raise UserError(
            f"{student.name} does not descend from {teacher.name}: {error} Give the ancestor, or a "
            "model on the way from it, as TEACHER."
        ) from error


def vocabulary_rows(student: Party, teacher: Party) -> Rows | None:
    """What the rows of the student's vocabulary are in the teacher's; None: the same.

    Raises:
      UserError: the teacher has another vocabulary, and no plan says which rows were kept.
    """
    same = _same_tokenizer(student, teacher)
    sizes = (student.model.config.vocab_size, teacher.model.config.vocab_size)
    if same and sizes[0] == sizes[1]:
        return None
    try:
        kept = descent(student, teacher).get(VOCAB)
        problem = "" if kept or not same else "their plans do not cut the vocabulary"
    except UserError as error:
        kept, problem = None, str(error).rstrip(".")
    if kept is not None:
        rows = Rows(tuple(kept), _without_padding(kept))
        _check_pieces(student, teacher, rows)
        return rows
    if same and student.tokenizer is not None:
        # Only rows behind the last token differ, which pad: they have no meaning.
        tokens = open_vocabulary(student.tokenizer).token_count
        if tokens <= min(sizes):
            shared = tuple(range(min(sizes)))
            return Rows(shared + (shared[-1],) * (sizes[0] - len(shared)), len(shared))
    if same:
        raise UserError(
            f"{student.name} has a vocabulary of {sizes[0]} rows and {teacher.name} one of "
            f"{sizes[1]}, and {problem or 'nothing says which were kept'}; give a teacher with the "
            "same vocabulary."
        )
    raise UserError(
        f"{teacher.name} has another tokenizer than {student.name}"
        f"{f' ({problem})' if problem else ''}; give a teacher with the same pieces, or the model "
        "that the vocabulary was cut from."
    )


def _same_network(model: Model, other: Model) -> bool:
    """Whether parameters of one fit the other and mean the same there."""
    aligned = {"param_dtype": other.config.param_dtype, "attention": other.config.attention}
    return (
        model.config.family == other.config.family
        and model.axes.sizes == other.axes.sizes
        and not model.replace(**aligned).config.conflicts(other.config)
    )


def _same_tokenizer(student: Party, teacher: Party) -> bool:
    """Whether both read texts alike, as far as files are there to tell."""
    if student.tokenizer is None or teacher.tokenizer is None:
        return True
    return model_folder.same_tokenizer(student.tokenizer, teacher.tokenizer)


def _without_padding(rows: Sequence[int]) -> int:
    """Rows in front of those that repeat one at the end."""
    real = len(rows)
    while real > 1 and rows[real - 1] == rows[-1]:
        real -= 1
    # The first of the equal ones is the token itself, unless that stands further in front.
    return real if rows[-1] in rows[:real] else real + 1


def _check_pieces(student: Party, teacher: Party, rows: Rows) -> None:
    """Checks that a kept row is the same piece in both tokenizers.

    Raises:
      UserError: one is another piece.
    """
    if student.tokenizer is None or teacher.tokenizer is None:
        return
    mine, theirs = open_vocabulary(student.tokenizer), open_vocabulary(teacher.tokenizer)
    count = min(mine.piece_count, rows.real)
    numbers = [n for n in range(count) if rows.kept[n] < theirs.piece_count]
    wanted = theirs.pieces([rows.kept[n] for n in numbers])
    for number, piece, found in zip(numbers, mine.pieces(numbers), wanted, strict=True):
        if found != piece:
            raise UserError(
                f"row {number} of {student.name} is the piece {piece!r}, but the row that its plan "
                f"keeps of {teacher.name} is {found!r}; the teacher has another tokenizer than the "
                "model that the vocabulary was cut from."
            )
