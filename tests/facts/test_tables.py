"""The tables say what is true, once, and the wordings say it whole."""

import itertools
import re

import pytest

from examples.facts import LANGUAGES, RELATIONS
from examples.facts.tables import calendar, geography, language, nature, numbers, science

BY_NAME = {relation.name: relation for relation in RELATIONS}
SYMBOLS = {"element_symbols", "unit_symbols", "roman_numerals"}


def each_relation(function):
    return pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)(function)


def objects(name, lang="en"):
    return {fact.subject[lang]: fact.object[lang] for fact in BY_NAME[name].facts}


def test_names_are_unique_and_facts_know_theirs():
    assert len(BY_NAME) == len(RELATIONS)
    assert all(fact.relation == r.name for r in RELATIONS for fact in r.facts)


@each_relation
def test_subjects_are_unique_and_nothing_is_blank(relation):
    for lang in LANGUAGES:
        subjects = [fact.subject[lang] for fact in relation.facts]
        assert len(set(subjects)) == len(subjects)
    for fact in relation.facts:
        for said in (*fact.subject.values(), *fact.object.values()):
            assert said == said.strip()
            assert said not in ("", "-")


@each_relation
def test_wordings(relation):
    for lang in LANGUAGES:
        statements, questions = relation.statements[lang], relation.questions[lang]
        assert len(set(statements)) == len(statements) >= 5
        assert len(set(questions)) == len(questions) >= 3
        assert all(s.count("{s}") == s.count("{o}") == 1 for s in statements)
        assert all(q.count("{s}") == 1 and "{o}" not in q for q in questions)
        ending = [s for s in statements if re.search(r"\{o\}[”》]?[.。]$", s)]
        assert 2 <= len(ending) < len(statements)  # the answer last in some, earlier in others
        assert all(s.endswith("." if lang == "en" else "。") for s in statements)
        assert all(q.endswith("?" if lang == "en" else "？") for q in questions)


@each_relation
@pytest.mark.parametrize("lang", LANGUAGES)
def test_wordings_do_not_capitalise_symbols(relation, lang):
    if lang == "en" and relation.name in SYMBOLS:
        for fact in relation.facts:
            if fact.object[lang][0].islower():
                assert not any(s.startswith("{o}") for s in relation.statements[lang])


@each_relation
@pytest.mark.parametrize("count", [1, 4, 24])
def test_every_fact_has_three_wrong_answers_however_few_facts_are_told(relation, count):
    cut = relation.first(count)
    assert cut.facts == relation.facts[:count]
    for fact, lang in itertools.product(cut.facts, LANGUAGES):
        wrong = cut.wrong_answers(fact, lang)
        assert len(set(wrong)) == len(wrong) >= 3
        assert fact.object[lang] not in wrong


def test_wrong_answers_are_told_of_where_there_are_enough():
    capitals = BY_NAME["capitals"].first(4)
    wrong = capitals.wrong_answers(capitals.facts[0], "en")
    assert wrong == ["Paris", "Tokyo", "Washington"]


def test_elements():
    assert [int(row[0]) for row in science.ELEMENTS] == list(range(1, 93))
    for column in (1, 2, 3):
        assert len({row[column] for row in science.ELEMENTS}) == 92
    assert all(re.fullmatch("[A-Z][a-z]?", row[1]) for row in science.ELEMENTS)
    assert all(len(row[3]) == 1 for row in science.ELEMENTS)
    assert objects("element_symbols")["gold"] == "Au"
    assert objects("element_numbers", "zh")["铁"] == "26"


def test_units():
    assert len({row[2] for row in science.UNITS}) == len({row[4] for row in science.UNITS}) == 28
    assert objects("units")["force"] == "newton"


def test_planets_and_moons():
    assert [row[0][0] for row in nature.PLANETS] == list("MVEMJSUN")
    names = {row[0]: row[1] for row in nature.PLANETS}
    assert all(names[row[2]] == row[3] for row in nature.MOONS)
    assert all(row[1][0] == row[3][0] for row in nature.MOONS)  # 火卫一 belongs to 火星


def test_countries():
    countries = {row[0]: row[1] for row in geography.COUNTRIES}
    assert len(countries) >= 60
    capitals = [fact.object for fact in BY_NAME["capitals"].facts]
    assert all(len({c[lang] for c in capitals}) == len(capitals) for lang in LANGUAGES)
    assert len(set(objects("continents").values())) == 6
    assert all(countries[row[2]] == row[3] for row in geography.SIGHTS)


def test_objects_have_one_name_in_each_language():
    """Where an object is shared by facts, both languages share it: no spelling slips."""
    for relation in RELATIONS:
        names = {(fact.object["en"], fact.object["zh"]) for fact in relation.facts}
        assert len({en for en, _ in names}) == len(names), relation.name
        assert len({zh for _, zh in names}) == len(names), relation.name


def test_calendar():
    assert [int(row[2]) for row in calendar.MONTHS] == list(range(1, 13))
    assert sum(int(row[3]) for row in calendar.MONTHS) == 365
    assert len(calendar.WEEKDAYS) == 7
    assert objects("weekdays")["Sunday"] == "Monday"
    assert objects("months", "zh")["十二月"] == "一月"
    seasons = list(objects("month_seasons").values())
    assert {seasons.count(season) for season in seasons} == {3}


def test_arithmetic():
    assert len(numbers.SUMS) == len(numbers.PRODUCTS) == 100
    for en, zh, total in numbers.SUMS:
        assert int(total) == sum(map(int, en.split(" plus "))) == sum(map(int, zh.split(" 加 ")))
    for en, _, product in numbers.PRODUCTS:
        a, b = map(int, en.split(" times "))
        assert int(product) == a * b


@pytest.mark.parametrize(
    ("number", "numeral"),
    [(1, "I"), (4, "IV"), (9, "IX"), (14, "XIV"), (90, "XC"), (1994, "MCMXCIV")],
)
def test_roman(number, numeral):
    assert numbers.roman(number) == numeral


@pytest.mark.parametrize(
    ("number", "en", "zh"),
    [(0, "zero", "零"), (7, "seven", "七"), (10, "ten", "十"), (13, "thirteen", "十三"),
     (20, "twenty", "二十"), (48, "forty-eight", "四十八")],
)  # fmt: skip
def test_number_words(number, en, zh):
    assert numbers.words(number) == (en, zh)


def test_opposites_are_mutual():
    for lang in LANGUAGES:
        pairs = objects("opposites", lang)
        assert len(pairs) == 2 * len(language.OPPOSITES)
        assert all(pairs[other] == word for word, other in pairs.items())
