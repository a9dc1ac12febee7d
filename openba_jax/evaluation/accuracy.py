"""Multiple-choice questions in the JSON format of the original (reference §7.2, §7.6 "ppl").

An answer's score is the mean log-likelihood of its tokens, sentinel and end of sequence left out;
the best one is the prediction.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.models.base import Model, Params
from openba_jax.parallel.sharding import to_host

LETTERS = "ABCDE"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      text: the question.
      options: the answers to choose from.
      answer: index of the right one.
    """

    text: str
    options: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class Score:
    """Right answers among all questions, and what guessing would give.

    Attributes:
      right: questions answered rightly.
      count: questions.
      chance: expected accuracy of a guess.
    """

    right: int
    count: int
    chance: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.count


def read_questions(path: str | Path) -> list[Question]:
    """Reads one subject: a list of `{"demo": [...], "data": {"question", "res1", ..., "ans"}}`.

    Raises:
      UserError: the file is no such list.
    """
    try:
        items = json.loads(Path(path).read_text(encoding="utf-8"))
        questions = [_question(item["data"]) for item in items]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read questions from {path}: {error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no question file ({error!r}): a list of objects with 'data' holding "
            "'question', 'res1', 'res2', ... and 'ans' is expected."
        ) from error
    if not questions:
        raise UserError(f"{path} holds no question.")
    return questions


def _question(fields: Mapping[str, Any]) -> Question:
    options = [fields[f"res{i}"] for i in range(1, len(LETTERS) + 1) if f"res{i}" in fields]
    answer = list(LETTERS).index(fields["ans"])
    if answer >= len(options):
        raise ValueError(f"answer {fields['ans']} among {len(options)} options")
    if not isinstance(fields["question"], str):
        raise ValueError(f"question {fields['question']!r} is no text")
    return Question(fields["question"], tuple(str(option) for option in options), answer)


def question_files(folder: str | Path) -> list[Path]:
    """All `*.json` of a folder, sorted.

    Raises:
      UserError: there is none.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no question file (*.json).")
    return files


def answer_questions(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    questions: Iterable[Question],
    *,
    encoder_length: int,
    decoder_length: int,
    batch_size: int = 64,
) -> np.ndarray:
    """The index of the best answer to each question, int `[questions]`.

    Every question is framed `<S> question <extra_id_0> </s>`, every answer
    `<extra_id_0> answer </s>` (reference §3.5).

    Raises:
      UserError: a question or an answer does not fit into its length.
    """
    frames = [
        _frame(question, vocabulary, encoder_length, decoder_length) for question in questions
    ]
    width = max(len(answers) for _, answers in frames)
    encoder_length = fitting_length([ids for ids, _ in frames], encoder_length)
    decoder_length = fitting_length(
        [ids for _, answers in frames for ids in answers], decoder_length
    )
    predictions = []
    for start in range(0, len(frames), batch_size):
        chunk = frames[start : start + batch_size]
        # The last batch is filled up, so that one shape is compiled.
        filled = chunk + [([], [])] * (batch_size - len(chunk))
        inputs = pad_rows([ids for ids, _ in filled], encoder_length)
        targets = [ids for _, answers in filled for ids in answers + [[]] * (width - len(answers))]
        rows = pad_rows(targets, decoder_length).reshape(batch_size, width, decoder_length)
        special = (0, vocabulary.sentinel(0), vocabulary.eos_id)
        weights = np.isin(rows, special, invert=True).astype(np.float32)
        sums = to_host(answer_log_likelihoods(model, params, inputs, rows, weights))
        tokens = weights.sum(-1)
        means = np.where(tokens > 0, sums / np.maximum(tokens, 1), -np.inf)
        predictions.append(means.argmax(-1)[: len(chunk)])
    return np.concatenate(predictions)


def _frame(
    question: Question, vocabulary: Vocabulary, encoder_length: int, decoder_length: int
) -> tuple[list[int], list[list[int]]]:
    """Ids of a question and of its answers, framed."""
    sentinel, eos = vocabulary.sentinel(0), vocabulary.eos_id
    ids = [vocabulary.s_id, *vocabulary.encode(question.text), sentinel, eos]
    if len(ids) > encoder_length:
        raise UserError(
            f"a question of {len(ids)} tokens exceeds the encoder length {encoder_length}: "
            f"{question.text[:60]!r}."
        )
    answers = [[sentinel, *vocabulary.encode(option), eos] for option in question.options]
    for option, answer in zip(question.options, answers, strict=True):
        if len(answer) > decoder_length:
            raise UserError(
                f"an answer of {len(answer)} tokens exceeds the decoder length {decoder_length}: "
                f"{option[:60]!r}."
            )
    return ids, answers


def score_files(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    files: Iterable[Path],
    *,
    encoder_length: int,
    decoder_length: int,
    batch_size: int = 64,
) -> dict[str, Score]:
    """Scores every file; the key `total` is the micro average over all questions (§7.7)."""
    subjects = {file.stem: read_questions(file) for file in files}
    every = [question for questions in subjects.values() for question in questions]
    predictions = answer_questions(
        model,
        params,
        vocabulary,
        every,
        encoder_length=encoder_length,
        decoder_length=decoder_length,
        batch_size=batch_size,
    )
    right = predictions == [question.answer for question in every]
    chance = np.array([1 / len(question.options) for question in every])
    scores, start = {}, 0
    for name, questions in subjects.items():
        part = slice(start, start + len(questions))
        scores[name] = Score(int(right[part].sum()), len(questions), float(chance[part].mean()))
        start += len(questions)
    scores["total"] = Score(int(right.sum()), len(every), float(chance.mean()))
    return scores
