"""Which tokenizers a teacher may have, for every kind of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.distillation.descent import Party, Rows, vocabulary_rows
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.vocabulary import prune_vocabulary


def parties(tokenizer: Path, folder: Path, name: str = "tiny_llama") -> tuple[Party, Party]:
    """A teacher and a student whose vocabulary was cut; no parameters."""
    vocabulary = open_vocabulary(tokenizer)
    counts = np.random.default_rng(0).integers(0, 9, vocabulary.token_count)
    pruned = prune_vocabulary(tokenizer, counts, vocabulary.piece_count // 2)
    folder.mkdir()
    pruned.save(folder / pruned.file)
    ancestor = model_of(named_config(name, vocab_size=vocabulary.size))
    parent = Plan.identity(ancestor, "teacher")
    plan = parent.narrow(parent.to_ancestor({"vocab": pruned.rows}))
    student = Party(pruned_model(plan), plan, folder / pruned.file, "student")
    return student, Party(ancestor, None, tokenizer, "teacher")


@pytest.fixture
def openba(tmp_path: Path) -> Path:
    texts = ["what is water who you and me they a metal liquid gold H2O NaCl ?"] * 20
    return Path(train_vocabulary(texts, 285, tmp_path / "openba.model").path)


@pytest.mark.parametrize("kind", ["gemma", "llama", "llama3", "smollm"])
def test_a_cut_vocabulary_has_the_pieces_of_its_teacher(
    kind: str, golden_dir: Any, tmp_path: Path
) -> None:
    folder = golden_dir("tokenizers", "llama3") / kind
    tokenizer = next(each for each in folder.iterdir() if each.stem == "tokenizer")
    student, teacher = parties(tokenizer, tmp_path / "student")
    assert student.plan is not None
    rows = tuple(student.plan.keep["vocab"])
    assert vocabulary_rows(student, teacher) == Rows(rows, len(rows))
    assert vocabulary_rows(teacher, teacher) is None


def test_openbas_padding_rows_stand_for_nothing(openba: Path, tmp_path: Path) -> None:
    student, teacher = parties(openba, tmp_path / "student", "tiny")
    rows = vocabulary_rows(student, teacher)
    assert rows is not None
    assert student.tokenizer is not None
    assert rows.real == open_vocabulary(student.tokenizer).token_count < len(rows.kept)


def test_a_teacher_with_other_pieces_is_refused(openba: Path, tmp_path: Path) -> None:
    student, teacher = parties(openba, tmp_path / "student", "tiny")
    texts = ["zebras jump over quartz and vexed dwarves in 1999, lazily !"] * 20
    other = Path(train_vocabulary(texts, 285, tmp_path / "other.model").path)
    stranger = Party(teacher.model, None, other, "stranger")
    with pytest.raises(
        UserError, match=r"row \d+ of student is the piece .* another tokenizer than"
    ):
        vocabulary_rows(student, stranger)
    with pytest.raises(UserError, match="stranger has another tokenizer than teacher"):
        vocabulary_rows(teacher, stranger)
    alone = Party(student.model, None, student.tokenizer, "scratch")
    with pytest.raises(UserError, match=r"another tokenizer than scratch .*no pruning plan"):
        vocabulary_rows(alone, teacher)


def test_rows_behind_the_last_token_do_not_count(openba: Path, tmp_path: Path) -> None:
    student, teacher = parties(openba, tmp_path / "student", "tiny")
    del student
    size = teacher.model.config.vocab_size
    copy = Path(shutil.copy(openba, tmp_path / "copy.model"))
    wider = Party(teacher.model.replace(vocab_size=size + 128), None, copy, "wider")
    assert vocabulary_rows(teacher, wider) == Rows(tuple(range(size)), size)
    rows = vocabulary_rows(wider, teacher)
    assert rows == Rows((*range(size), *[size - 1] * 128), size)
