"""Multiple-choice questions in OpenBA's JSON format, asked without demonstrations.

The prompt is the question alone, the answers are the options.
"""

from __future__ import annotations

from openba_jax.evaluation.benchmarks.choices import Choices, FramedQuestion, mean_log_likelihood
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import LETTERS
from openba_jax.evaluation.sources.openba_json import load
from openba_jax.inference.prompts import PromptFrame, UnusablePromptError

__all__ = ["BENCHMARK", "LETTERS", "load", "prompt"]


def prompt(question: Question, frame: PromptFrame) -> FramedQuestion:
    """The question as the prompt, its options as the answers.

    Raises:
      UnusablePromptError: question or options cannot be framed, or the right option stands there
        twice, so that no choice of a text is right.
    """
    if question.options.count(question.options[question.answer]) > 1:
        raise UnusablePromptError(
            f"{question.place}: the right option {question.options[question.answer]!r:.60} is "
            "there more than once."
        )
    ids = frame.prompt(question.text, question.place)
    return FramedQuestion(ids, [frame.answer(each, question.place) for each in question.options])


BENCHMARK = Choices("json_choice", load, prompt, mean_log_likelihood)
