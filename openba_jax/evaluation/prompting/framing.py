"""Questions as ids: how many demonstrations fit, and what of an answer is scored."""

from __future__ import annotations

import functools
from typing import NamedTuple

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import UnaskableBenchmarkError
from openba_jax.evaluation.choosing import FramedLetters, FramedQuestion
from openba_jax.evaluation.prompting.template import MARK, Template, numbered
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import LETTERS
from openba_jax.inference.prompts import SentinelFrame, UnusablePromptError

ORIGINAL_SENTINEL = 250199
"""What the original's scorer takes for `<extra_id_0>`, whatever the vocabulary is."""


class Asked(NamedTuple):
    """A question as it is put.

    Attributes:
      framed: its ids.
      text: what the encoder reads, without its frame.
      shots: demonstrations in it.
    """

    framed: FramedQuestion | FramedLetters
    text: str
    shots: int


def frame_question(
    question: Question,
    template: Template,
    asked: AskedModel,
    shots: int,
    subject: str,
    as_original: bool,
) -> Asked:
    """The ids of a question, with as many demonstrations as fit into the encoder.

    Args:
      question: with its demonstrations.
      template: of the prompt.
      asked: the model.
      shots: demonstrations at most.
      subject: what the subject is called in prompts.
      as_original: a question that is too long is cut, as the original's tokenizer does, newlines
        are blanks, and the sentinel of answers is not scored where its id is 250199 alone.

    Raises:
      UnaskableBenchmarkError: the model has no sentinels, or its vocabulary not the letters,
        that the template needs.
      UnusablePromptError: the question cannot be asked: it is too long without demonstrations, or
        an option has no token, or is too long.
    """
    prompt, text, shown = _prompt(question, template, asked, shots, subject, as_original)
    if template.scoring == "letters":
        letters = LETTERS[: len(question.options)]
        prefix, ids = _letters(asked, template.decoder, letters)
        return Asked(FramedLetters(prompt, prefix, ids), text, shown)
    if not template.names_letters and not as_original and template.scoring == "perplexity":
        _check_right_option(question)
    options = range(len(question.options))
    if template.has_sentinels:
        answers = [_with_sentinels(template, question, n, shown, asked) for n in options]
        start = answers[0].index(asked.vocabulary.sentinel(shown)) + 1
        return Asked(FramedQuestion(prompt, answers, start), text, shown)
    answers = [
        _answer(template.decoder_text(question, n, shown), question.place, asked, as_original)
        for n in options
    ]
    unscored: tuple[int, ...] = ()
    if as_original and isinstance(asked.frame, SentinelFrame):
        unscored = (asked.vocabulary.pad_id, asked.vocabulary.eos_id, ORIGINAL_SENTINEL)
    return Asked(FramedQuestion(prompt, answers, 0, unscored), text, shown)


def _prompt(
    question: Question,
    template: Template,
    asked: AskedModel,
    shots: int,
    subject: str,
    as_original: bool,
) -> tuple[list[int], str, int]:
    """Ids, text and number of demonstrations of the longest prompt that fits."""
    most = min(shots, len(question.demos))
    text = ""
    for count in range(most, -1, -1):
        text = template.encoder_text(question, count, subject)
        try:
            return _encoded(text, template, asked, question.place, as_original), text, count
        except UnusablePromptError:
            if count == 0 and not as_original:
                raise
    ids = _encoded(text, template, asked.unlimited, question.place, as_original)
    return [*ids[: asked.encoder_length - 1], asked.vocabulary.eos_id], text, 0


def _encoded(
    text: str, template: Template, asked: AskedModel, place: str, as_original: bool
) -> list[int]:
    if as_original and asked.vocabulary.newline:
        text = text.replace("\n", " ")
    if not template.has_sentinels:
        # The tokenizer of Hugging Face strips blanks beside special tokens.
        return asked.frame.prompt(text.strip(), place)
    vocabulary = _with_sentinel_frame(asked)
    ids = [vocabulary.s_id]
    first, *others = (vocabulary.encode(part.strip()) for part in text.split(MARK))
    ids += first
    for number, part in enumerate(others):
        ids += [vocabulary.sentinel(number), *part]
    ids.append(vocabulary.eos_id)
    if len(ids) > asked.encoder_length:
        raise UnusablePromptError(
            f"{place}: a prompt of {len(ids)} tokens exceeds the encoder length "
            f"{asked.encoder_length}: {numbered(text)[:60]!r}."
        )
    return ids


def _answer(text: str, place: str, asked: AskedModel, as_original: bool) -> list[int]:
    try:
        return asked.frame.answer(text, place)
    except UnusablePromptError:
        if not as_original or not text.strip():
            raise
    ids = asked.unlimited.frame.answer(text, place)
    return [*ids[: asked.decoder_length - 1], asked.vocabulary.eos_id]


def _with_sentinels(
    template: Template, question: Question, option: int, shots: int, asked: AskedModel
) -> list[int]:
    """The answers to the demonstrations and an option, each behind its sentinel."""
    vocabulary = asked.vocabulary
    text = template.decoder_text(question, option, shots)
    ids: list[int] = []
    for number, part in enumerate(text.split(MARK)[1:]):
        ids += [vocabulary.sentinel(number), *vocabulary.encode(part.strip())]
    ids.append(vocabulary.eos_id)
    if len(ids) > asked.decoder_length:
        raise UnusablePromptError(
            f"{question.place}: an answer of {len(ids)} tokens exceeds the decoder length "
            f"{asked.decoder_length}: {numbered(text)[:60]!r}."
        )
    if not question.options[option].strip():
        raise UnusablePromptError(f"{question.place}: an option has no token to score.")
    return ids


def _with_sentinel_frame(asked: AskedModel) -> Vocabulary:
    if not isinstance(asked.frame, SentinelFrame):
        raise UnaskableBenchmarkError(
            "templates called r_ppl give every demonstration a sentinel, which this model has not "
            "been trained on; take another template."
        )
    return asked.vocabulary


def _letters(asked: AskedModel, decoder: str, letters: str) -> tuple[list[int], list[int]]:
    """The ids in front of a letter, and those of the letters."""
    frame, vocabulary = asked.frame, asked.vocabulary
    if isinstance(frame, SentinelFrame):
        body = vocabulary.encode(decoder) if decoder else []
        ids = _pieces(vocabulary)
        missing = [letter for letter in letters if letter not in ids]
        if missing:
            raise UnaskableBenchmarkError(
                f"{vocabulary} has no piece {missing[0]!r}, which a template of letters needs; "
                "take one that compares options."
            )
        return [vocabulary.sentinel(0), *body], [ids[letter] for letter in letters]
    # Other tokenizers write a letter with the blank before it, in one piece or in two.
    answers = [frame.answer(decoder + letter, "a letter") for letter in letters]
    shared = next(n for n, column in enumerate(zip(*answers, strict=False)) if len(set(column)) > 1)
    return answers[0][:shared], [answer[shared] for answer in answers]


@functools.lru_cache(maxsize=4)
def _pieces(vocabulary: Vocabulary) -> dict[str, int]:
    """Pieces -> ids."""
    count = vocabulary.piece_count
    return {piece: number for number, piece in enumerate(vocabulary.pieces(range(count)))}


def _check_right_option(question: Question) -> None:
    if question.options.count(question.answer_text) > 1:
        raise UnusablePromptError(
            f"{question.place}: the right option {question.answer_text!r:.60} is there more than "
            "once."
        )
