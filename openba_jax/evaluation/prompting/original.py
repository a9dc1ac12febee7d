"""The templates of OpenBA and OpenBA-V2, by benchmark; blanks and spelling are the original's.

`ppl` templates compare options, `ABCD` templates letters; the number is that of demonstrations.
`r_ppl` templates, which the original's main program cannot run, give each demonstration a sentinel
of its own. Names that begin with `v1_` are the first version's.
"""

from __future__ import annotations

import dataclasses

from openba_jax.evaluation.prompting.template import Template, Templates

_EXAMPLES = "First, I will give you some examples. You need to answer the last question. Examples:"
_MISSPELT = "Fisrt, l will give you some examples. You need to answer the last question. Examples:"
_TAIL = "Please answer the following question. "
_CHINESE = (
    "以下是关于({subject})的单项选择题，请直接给出正确答案的选项。题目：{question} {options} "
)
_SCIENCE = (
    "Utilize science knowledge to respond to the following grade-school level, multiple-choice "
    "science questions. Choose the correct answer based on understanding of real-world scientific "
    "principles."
)
_PHYSICAL = (
    "Please answer the following multiple choice question based on physical commonsense knowledge"
    "\n\nQuestion: {question} Options: {options} Answer: ("
)
_UNFORMATTED = "{:}"
"""What the decoder reads by a mistake of the original's: a placeholder that nothing fills."""

_MMLU_PPL = "Question: {question} OPTIONS: {options} Answer: "
_MMLU_LETTERS = "Question: {question} Options: {options} Answer:"
_CHINESE_PPL = "题目：{question} 选项：{options} 答案是："

MMLU: Templates = {
    "ppl_0": Template(
        "Question: {question} OPTIONS: {options} Choose one of the options as an answer to the "
        "question.",
        "perplexity",
        "- {answer}",
    ),
    "ppl_5": Template(
        _MMLU_PPL,
        "perplexity",
        "- {answer}",
        answer=" {answer} ",
        intro=_EXAMPLES,
        tail=_TAIL,
        shots=5,
    ),
    "r_ppl_5": Template(
        "Question: {question} Options: {options} Answer: {sentinel} ",
        "perplexity",
        "- {answer}",
        answer=" ",
        shots=5,
    ),
    "ABCD_0": Template(
        "Please answer the following multiple choice question: \n\n " + _MMLU_LETTERS,
        "letters",
        "{letter}: {answer}",
    ),
    "ABCD_5": Template(
        _MMLU_LETTERS,
        "letters",
        "{letter}: {answer}",
        answer="{letter} \n ",
        intro=_EXAMPLES + " ",
        tail=_TAIL,
        shots=5,
    ),
    "v1_ABCD_0": Template(_MMLU_LETTERS, "letters", "{letter}. {answer}"),
    "v1_ABCD_5": Template(
        _MMLU_LETTERS, "letters", "{letter}. {answer}", answer="{letter}\n ", shots=5
    ),
}

CHINESE: Templates = {
    "ppl_0": Template(_CHINESE_PPL, "perplexity", "- {answer}"),
    "ppl_5": Template(_CHINESE_PPL, "perplexity", "- {answer}", answer=" {answer} ", shots=5),
    "ABCD_0": Template(_CHINESE + "答案是：", "letters", "{letter}. {answer}"),
    "ABCD_5": Template(
        _CHINESE + "答案是：", "letters", "{letter}. {answer}", answer="{letter}\n ", shots=5
    ),
}
"""Of CMMLU and C-Eval."""

CMMLU: Templates = {
    **CHINESE,
    "v1_ABCD_0": Template(_CHINESE, "letters", "{letter}. {answer}", decoder="答案是："),
    "v1_ABCD_5": Template(
        _CHINESE,
        "letters",
        "{letter}. {answer}",
        answer="答案是：{letter}\n ",
        decoder="答案是：",
        shots=5,
    ),
}

ARC: Templates = {
    "ABCD_0": Template(
        _SCIENCE + "Question: {question} Options: {options} Answer: ",
        "letters",
        "{letter}. {answer}",
    ),
    "ABCD_25": Template(
        _SCIENCE + "Question: {question} Options: {options} Answer: ",
        "letters",
        "{letter}. {answer}",
        answer="{letter}\n ",
        shots=25,
    ),
}

PIQA: Templates = {
    "ppl_0": Template("Question: {question} Answer: ", "perplexity", blank=False),
    "ppl_10": Template(
        "Question: {question} Answer: ", "perplexity", answer=" {answer} ", shots=10, blank=False
    ),
    "r_ppl_10": Template(
        "Question: {question} Answer:  {sentinel} ",
        "perplexity",
        answer=" ",
        shots=10,
        blank=False,
    ),
    "ABCD_0": Template(_PHYSICAL, "letters", "({letter}) {answer}", blank=False),
    "ABCD_10": Template(
        _PHYSICAL,
        "letters",
        "({letter}) {answer}",
        answer="{letter}) \n",
        shots=10,
        blank=False,
    ),
}

_UNFORMATTED_DECODERS = {("arc", "ABCD_25"), ("mmlu", "v1_ABCD_5")}


def with_mistakes(family: str, name: str, template: Template) -> Template:
    """A template with the mistakes that the original makes in it.

    Args:
      family: `mmlu`, `cmmlu`, `ceval`, `arc` or `piqa`.
      name: of the template.
      template: without them.
    """
    decoder = _UNFORMATTED if (family, name) in _UNFORMATTED_DECODERS else template.decoder
    intro = template.intro.replace(_EXAMPLES, _MISSPELT)
    return dataclasses.replace(template, intro=intro, decoder=decoder)
