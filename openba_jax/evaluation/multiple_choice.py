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
from openba_jax.evaluation.scoring import answer_log_likelihoods, pad_rows
from openba_jax.model.config import OpenBAConfig
from openba_jax.model.network import Params
from openba_jax.training.sharding import to_host

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
    config: OpenBAConfig,
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
    questions = list(questions)
    width = max(len(question.options) for question in questions)
    sentinel, eos = vocabulary.sentinel(0), vocabulary.eos_id
    predictions = []
    for start in range(0, len(questions), batch_size):
        chunk = questions[start : start + batch_size]
        inputs, targets = [], []
        for question in chunk:
            ids = [vocabulary.s_id, *vocabulary.encode(question.text), sentinel, eos]
            if len(ids) > encoder_length:
                raise UserError(
                    f"a question of {len(ids)} tokens exceeds the encoder length "
                    f"{encoder_length}: {question.text[:60]!r}."
                )
            inputs.append(ids)
            for option in question.options:
                ids = [sentinel, *vocabulary.encode(option), eos]
                if len(ids) > decoder_length:
                    raise UserError(
                        f"an answer of {len(ids)} tokens exceeds the decoder length "
                        f"{decoder_length}: {option[:60]!r}."
                    )
                targets.append(ids)
            targets.extend([[]] * (width - len(question.options)))
        # The last batch is filled up, so that one shape is compiled.
        inputs.extend([[]] * (batch_size - len(chunk)))
        targets.extend([[]] * (batch_size * width - len(targets)))
        rows = pad_rows(targets, decoder_length).reshape(batch_size, width, decoder_length)
        weights = np.isin(rows, (0, sentinel, eos), invert=True).astype(np.float32)
        sums = answer_log_likelihoods(
            config, params, pad_rows(inputs, encoder_length), rows, weights
        )
        tokens = weights.sum(-1)
        means = np.where(tokens > 0, to_host(sums) / np.maximum(tokens, 1), -np.inf)
        predictions.append(means.argmax(-1)[: len(chunk)])
    return np.concatenate(predictions)


def score_files(
    config: OpenBAConfig,
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
        config,
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
