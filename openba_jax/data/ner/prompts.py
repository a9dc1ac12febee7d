"""The prompts and answers of GNER (Ding et al. 2024, arXiv:2402.16602)."""

from __future__ import annotations

from collections.abc import Sequence

INSTRUCTION = (
    "Please analyze the sentence provided, identifying the type of entity for each word on a "
    "token-by-token basis.\n"
    "Output format is: word_1(label_1), word_2(label_2), ...\n"
    "We'll use the BIO-format to label the entities, where:\n"
    "1. B- (Begin) indicates the start of a named entity.\n"
    "2. I- (Inside) is used for words within a named entity but are not the first word.\n"
    "3. O (Outside) denotes words that are not part of a named entity.\n"
)
OUTSIDE = "O"


def prompt(words: Sequence[str], types: Sequence[str], dataset: str = "") -> str:
    """What a model is asked.

    Args:
      words: of the sentence.
      types: of entities, such as `average ratings`, in the order in which they are named.
      dataset: is named, too, unless it is empty.
    """
    named = f"Dataset: {dataset}.\n" if dataset else ""
    tags = ", ".join(types)
    return (
        f"{INSTRUCTION}\nUse the specific entity tags: {tags} and {OUTSIDE}.\n"
        f"{named}Sentence: {' '.join(words)}"
    )


def answer(words: Sequence[str], labels: Sequence[str]) -> str:
    """What it should answer: `word(label) word(label) ...`."""
    return " ".join(f"{word}({label})" for word, label in zip(words, labels, strict=True))


def labels_of(types: Sequence[str]) -> list[str]:
    """All labels of some types: `O`, then `B-` and `I-` of each."""
    return [OUTSIDE, *(f"{place}-{kind}" for kind in types for place in "BI")]
