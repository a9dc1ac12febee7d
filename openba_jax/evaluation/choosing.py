"""Scores of the options of framed questions, in batches of few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import Advance
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.inference.prompts import PromptFrame
from openba_jax.parallel.sharding import to_host


class FramedQuestion(NamedTuple):
    """A question as the model reads it.

    Attributes:
      prompt: encoder ids.
      answers: decoder ids of the answers to choose from.
    """

    prompt: list[int]
    answers: list[list[int]]

    def scored_tokens(self, frame: PromptFrame) -> list[int]:
        """How many tokens of each answer count in its score."""
        unscored = frame.unscored_ids
        return [sum(token not in unscored for token in ids) for ids in self.answers]


def score_options(
    questions: Sequence[FramedQuestion],
    places: Sequence[str],
    asked: AskedModel,
    advance: Advance,
) -> list[np.ndarray]:
    """The log-likelihoods of the answers to each question.

    Args:
      questions: framed.
      places: where they stand, for messages.
      asked: the model, whose frame tells what tokens count.
      advance: is told of questions that are done.

    Returns:
      For each question float32 `[answers]`, in nats.

    Raises:
      UserError: one is not finite.
    """
    if not questions:
        return []
    frame, model, batch_size = asked.frame, asked.model, asked.batch_size
    width = max(len(answers) for _, answers in questions)
    every = [ids for _, answers in questions for ids in answers]
    encoder_length = fitting_length([ids for ids, _ in questions], frame.encoder_length)
    decoder_length = fitting_length(every, asked.decoder_length)
    found: list[np.ndarray] = []
    for start in range(0, len(questions), batch_size):
        chunk = list(questions[start : start + batch_size])
        # The last batch is filled up, so that one shape is compiled.
        filled = chunk + [FramedQuestion([], [])] * (batch_size - len(chunk))
        inputs = pad_rows([ids for ids, _ in filled], encoder_length, model.padding)
        targets = [ids for _, answers in filled for ids in answers + [[]] * (width - len(answers))]
        rows = pad_rows(targets, decoder_length, model.padding)
        rows = rows.reshape(batch_size, width, decoder_length)
        unscored = (*frame.unscored_ids, model.padding)
        weights = np.isin(rows, unscored, invert=True).astype(np.float32)
        rows = np.maximum(rows, 0)
        sums = to_host(answer_log_likelihoods(model, asked.params, inputs, rows, weights))
        for row, place, (_, answers) in zip(sums, places[start:], chunk, strict=False):
            if not np.isfinite(row[: len(answers)]).all():
                raise UserError(
                    f"{place}: the score of an answer is not finite, and no figure would mean "
                    "anything; the compute type is too narrow for the parameters, or these are "
                    "damaged."
                )
            found.append(row[: len(answers)])
        advance(len(chunk))
    return found
