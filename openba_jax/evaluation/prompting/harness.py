"""The templates of lm-evaluation-harness, by benchmark.

Demonstrations are joined by an empty line, a target follows after a blank. Their options are scored
by the sum of log-likelihoods.
"""

from __future__ import annotations

from openba_jax.evaluation.prompting.template import Template

_AFTER = " {answer}\n\n"
_AFTER_LETTER = " {letter}\n\n"

QUESTION = Template("Question: {question}\nAnswer:", "likelihood", answer=_AFTER)
"""Of PIQA and ARC."""

SCIQ = Template("{stripped_passage}\nQuestion: {question}\nAnswer:", "likelihood", answer=_AFTER)

LOGIQA = Template(
    "Passage: {passage}\nQuestion: {question}\nChoices:\n{options}\nAnswer:",
    "likelihood",
    "{letter}. {answer}",
    "\n",
    answer=_AFTER,
)

BOOLQ = Template("{passage}\nQuestion: {question}?\nAnswer:", "likelihood", answer=_AFTER)

MMLU = Template(
    "{stripped_question}\n{options}\nAnswer:",
    "likelihood",
    "{letter}. {answer}",
    "\n",
    answer=_AFTER_LETTER,
    shots=5,
    names_letters=True,
)

CHINESE = Template(
    "{stripped_question}\n{options}\n答案：",
    "likelihood",
    "{letter}. {answer}",
    "\n",
    answer=_AFTER_LETTER,
    shots=5,
    names_letters=True,
)
"""Of CMMLU and C-Eval."""
