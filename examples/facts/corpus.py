"""Renders facts as documents, instruction pairs and four-choice questions.

Everything here is a pure function of its arguments. Each part has random streams of its own, so
that e.g. more documents leave the questions as they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from examples.facts.relation import LANGUAGES, Fact, Relation
from openba_jax.errors import UserError

# The forms of a question in the evaluation (docs/original.md#evaluation), without the space at the
# end, and the bare question.
_PLAIN = {"en": ("{q}", "Question: {q} Answer:"), "zh": ("{q}", "题目：{q} 答案是：")}
_CHOICE = {
    "en": (
        "Question: {q} OPTIONS: - {res1} - {res2} - {res3} - {res4} Answer:",
        "Question: {q} OPTIONS: - {res1} - {res2} - {res3} - {res4} "
        "Choose one of the options as an answer to the question.",
    ),
    "zh": ("题目：{q} 选项：- {res1} - {res2} - {res3} - {res4} 答案是：",),
}
_LETTERS = "ABCD"
_SENTENCES = (2, 5)  # of a document, at least and at most, where its topic has so many left
_RETOLD = 0.1  # share of the documents that end with one of their facts in the other language
_DEMOS = 5


def documents(relations: Sequence[Relation], *, seed: int, count: int) -> list[dict[str, str]]:
    """Documents of a few facts of one topic, in one language but for an occasional sentence.

    The facts are dealt out like decks of cards: each is told once in each language before any is
    told again.

    Returns:
      Records `{"text", "lang", "source"}`; the source is `facts/<topic>`.

    Raises:
      UserError: `count` documents do not hold every fact in both languages.
    """
    rng = random.Random(f"documents/{seed}")
    deck = _deal(relations, rng)
    if count < len(deck):
        raise UserError(
            f"documents={count} cannot hold every fact in both languages; "
            f"give at least {len(deck)}, or fewer facts_per_relation."
        )
    records: list[dict[str, str]] = []
    while len(records) < count:
        records += [_document(*hand, rng) for hand in deck[: count - len(records)]]
        deck = _deal(relations, rng)
    return records


def instructions(
    relations: Sequence[Relation],
    *,
    seed: int,
    count: int,
    choice_share: float = 0.5,
    held_out: int = 0,
) -> list[dict[str, str]]:
    """Questions and their answers; a share of the questions lists four options.

    The answer is always the text of the object, as the evaluation scores texts of options.

    Args:
      relations: what to ask about.
      seed: decides the order, the forms and the options.
      count: number of pairs; facts, languages and wordings take turns.
      choice_share: the share, 0 to 1, of pairs that list options.
      held_out: number of question wordings, the last ones, that never occur here.

    Returns:
      Records `{"inputs", "targets", "lang"}`.
    """
    rng = random.Random(f"instructions/{seed}")
    cells = [
        (relation, fact, lang, wording)
        for relation in relations
        for fact in relation.facts
        for lang in LANGUAGES
        for wording in _wordings(relation, lang, held_out)[0]
    ]
    records: list[dict[str, str]] = []
    while len(records) < count:
        rng.shuffle(cells)
        for relation, fact, lang, wording in cells[: count - len(records)]:
            if rng.random() < choice_share:
                item = _item(relation, fact, lang, wording, rng.randrange(4), rng)
                inputs = rng.choice(_CHOICE[lang]).format(q=item["question"], **item)
            else:
                question = wording.format(s=fact.subject[lang])
                inputs = rng.choice(_PLAIN[lang]).format(q=question)
            records.append({"inputs": inputs, "targets": fact.object[lang], "lang": lang})
    return records


def questions(
    relations: Sequence[Relation], *, seed: int, held_out: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Four-choice questions in the form of the evaluation (docs/original.md#evaluation).

    Each fact is asked once in each language, with up to five demos from other facts. In each file
    the letters of the right options are as frequent as each other, to within one.

    Args:
      relations: what to ask about.
      seed: decides the order, the wordings, the options and the demos.
      held_out: if positive, only that many wordings, the last ones, are used.

    Returns:
      File name, e.g. `capitals_en.json`, to a list of `{"demo": [item...], "data": item}`.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for relation in relations:
        for lang in LANGUAGES:
            rng = random.Random(f"questions/{seed}/{relation.name}/{lang}")
            wordings = _wordings(relation, lang, held_out)[1]
            asked = rng.sample(relation.facts, len(relation.facts))
            places = [i % 4 for i in range(len(asked))]
            rng.shuffle(places)
            files[f"{relation.name}_{lang}.json"] = [
                {
                    "demo": [
                        _item(relation, demo, lang, rng.choice(wordings), rng.randrange(4), rng)
                        for demo in _others(asked, fact, rng)
                    ],
                    "data": _item(relation, fact, lang, rng.choice(wordings), place, rng),
                }
                for fact, place in zip(asked, places, strict=True)
            ]
    return files


def _deal(
    relations: Iterable[Relation], rng: random.Random
) -> list[tuple[list[tuple[Relation, Fact]], str]]:
    """Every fact once in each language, in hands (facts of one topic, language), shuffled."""
    topics: dict[str, list[tuple[Relation, Fact]]] = {}
    for relation in relations:
        topics.setdefault(relation.topic, []).extend((relation, fact) for fact in relation.facts)
    hands = []
    for lang in LANGUAGES:
        for topic in topics.values():
            cards = rng.sample(topic, len(topic))
            while cards:
                size = rng.randint(*_SENTENCES)
                hands.append((cards[:size], lang))
                cards = cards[size:]
    rng.shuffle(hands)
    return hands


def _document(hand: list[tuple[Relation, Fact]], lang: str, rng: random.Random) -> dict[str, str]:
    sentences = [_sentence(relation, fact, lang, rng) for relation, fact in hand]
    space = " " if lang == "en" else ""
    if rng.random() < _RETOLD:
        (other,) = (language for language in LANGUAGES if language != lang)
        sentences.append(_sentence(*rng.choice(hand), other, rng))
        space = " "
    return {
        "text": space.join(sentences),
        "lang": lang,
        "source": f"facts/{hand[0][0].topic}",
    }


def _sentence(relation: Relation, fact: Fact, lang: str, rng: random.Random) -> str:
    template = rng.choice(relation.statements[lang])
    sentence = template.format(s=fact.subject[lang], o=fact.object[lang])
    return sentence[0].upper() + sentence[1:] if lang == "en" else sentence


def _item(
    relation: Relation, fact: Fact, lang: str, wording: str, place: int, rng: random.Random
) -> dict[str, str]:
    """A four-choice item whose right option stands at `place` (0 to 3)."""
    options = rng.sample(relation.wrong_answers(fact, lang), 3)
    options.insert(place, fact.object[lang])
    return {
        "question": wording.format(s=fact.subject[lang]),
        **{f"res{i}": option for i, option in enumerate(options, 1)},
        "ans": _LETTERS[place],
    }


def _others(asked: Sequence[Fact], fact: Fact, rng: random.Random) -> Iterator[Fact]:
    others = [other for other in asked if other is not fact]
    yield from rng.sample(others, min(_DEMOS, len(others)))


def _wordings(
    relation: Relation, lang: str, held_out: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Question wordings of the instruction pairs, and of the four-choice questions."""
    wordings = relation.questions[lang]
    if not 0 <= held_out < len(wordings):
        raise UserError(
            f"held_out={held_out}: {relation.name} has {len(wordings)} question wordings, "
            f"so 0 to {len(wordings) - 1} of them can be held out."
        )
    return (wordings[:-held_out], wordings[-held_out:]) if held_out else (wordings, wordings)
