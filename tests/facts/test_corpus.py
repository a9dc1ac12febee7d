"""Documents, instruction pairs and questions hold the facts, and what they promise of form."""

import collections
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.facts import LANGUAGES, RELATIONS, corpus
from openba_jax.errors import UserError

FEW = [relation.first(6) for relation in RELATIONS]
# The number of documents that hold every fact depends on the seed; three facts a document is safe.
ENOUGH = sum(len(relation.facts) for relation in FEW)


def statements(relation, fact, lang):
    """Every sentence that tells the fact in a language."""
    for template in relation.statements[lang]:
        said = template.format(s=fact.subject[lang], o=fact.object[lang])
        yield said[0].upper() + said[1:] if lang == "en" else said


def right_answers(relations, lang):
    """Question -> answer, of every question that can be asked."""
    return {
        wording.format(s=fact.subject[lang]): fact.object[lang]
        for relation in relations
        for fact in relation.facts
        for wording in relation.questions[lang]
    }


def test_no_question_has_two_answers():
    for lang in LANGUAGES:
        asked = [
            wording.format(s=fact.subject[lang])
            for relation in RELATIONS
            for fact in relation.facts
            for wording in relation.questions[lang]
        ]
        assert len(set(asked)) == len(asked)


@given(seed=st.integers())
@settings(max_examples=5, deadline=None)
def test_every_fact_is_told_in_both_languages(seed):
    told = corpus.documents(FEW, seed=seed, count=ENOUGH)
    assert len(told) == ENOUGH
    for lang in LANGUAGES:
        text = "\n".join(record["text"] for record in told if record["lang"] == lang)
        for relation in FEW:
            for fact in relation.facts:
                assert any(said in text for said in statements(relation, fact, lang)), fact


def test_documents_are_sentences_of_one_topic_mostly_in_one_language():
    told = corpus.documents(FEW, seed=3, count=2000)
    known = {
        said: (f"facts/{relation.topic}", lang)
        for relation in FEW
        for fact in relation.facts
        for lang in LANGUAGES
        for said in statements(relation, fact, lang)
    }
    sentences = sorted(known, key=len, reverse=True)
    mixed = 0
    for record in told[:200]:
        rest, languages = record["text"], []
        while rest:
            said = next(s for s in sentences if rest.startswith(s))
            source, lang = known[said]
            languages.append(lang)
            assert source == record["source"]
            rest = rest.removeprefix(said).removeprefix(" ")
        assert 1 <= len(languages) <= 6
        mixed += len(set(languages)) > 1
        assert set(languages[:-1] or languages) == {record["lang"]}
    assert 5 <= mixed <= 40  # a tenth of 200, within 4 deviations
    count = collections.Counter(record["lang"] for record in told)
    assert abs(count["en"] - count["zh"]) < 100


def test_facts_are_told_equally_often():
    """Across 30 rounds no fact is told much more often than another in the same language."""
    (relation,) = (r for r in FEW if r.name == "capitals")
    told = corpus.documents([relation], seed=0, count=120)
    text = "\n".join(record["text"] for record in told if record["lang"] == "zh")
    counts = [text.count(fact.object["zh"]) for fact in relation.facts]
    assert min(counts) > 0.5 * max(counts)


def test_too_few_documents_are_refused():
    with pytest.raises(UserError, match="documents=10 cannot hold every fact"):
        corpus.documents(FEW, seed=0, count=10)


def test_instructions_are_answered_rightly_and_cover_all():
    taught = corpus.instructions(FEW, seed=0, count=3000)
    assert len(taught) == 3000
    seen = set()
    for lang in LANGUAGES:
        answers = right_answers(FEW, lang)
        by_length = sorted(answers, key=len, reverse=True)
        for record in (r for r in taught if r["lang"] == lang):
            question = next(q for q in by_length if q in record["inputs"])
            assert record["targets"] == answers[question], record
            seen.add((lang, question))
        assert {q for code, q in seen if code == lang} == set(answers)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_choice(share):
    taught = corpus.instructions(FEW, seed=1, count=1000, choice_share=share)
    choices = [r for r in taught if "OPTIONS: - " in r["inputs"] or "选项：- " in r["inputs"]]
    assert abs(len(choices) - 1000 * share) < 60 * (0 < share < 1) + 1
    assert all(f"- {r['targets']} " in r["inputs"] for r in choices)


@given(seed=st.integers(), held_out=st.integers(0, 2))
@settings(max_examples=5, deadline=None)
def test_questions(seed, held_out):
    files = corpus.questions(FEW, seed=seed, held_out=held_out)
    assert set(files) == {f"{r.name}_{lang}.json" for r, lang in itertools.product(FEW, LANGUAGES)}
    for relation, lang in itertools.product(FEW, LANGUAGES):
        items = files[f"{relation.name}_{lang}.json"]
        answers = right_answers([relation], lang)
        assert len({item["data"]["question"] for item in items}) == len(relation.facts)
        letters = collections.Counter(dict.fromkeys("ABCD", 0))
        letters.update(item["data"]["ans"] for item in items)
        assert max(letters.values()) - min(letters.values()) <= 1
        for item in items:
            assert list(item) == ["demo", "data"]
            asked = [demo["question"] for demo in item["demo"]]
            assert len(set(asked)) == len(asked) == min(5, len(relation.facts) - 1)
            assert item["data"]["question"] not in asked
            for entry in (item["data"], *item["demo"]):
                assert list(entry) == ["question", "res1", "res2", "res3", "res4", "ans"]
                options = [entry[f"res{i}"] for i in (1, 2, 3, 4)]
                assert len(set(options)) == 4
                assert options["ABCD".index(entry["ans"])] == answers[entry["question"]]


def test_demos_are_of_other_facts():
    for items in corpus.questions(FEW, seed=0).values():
        for item in items:
            subjects = [
                (relation.name, fact.subject["en"])
                for entry in (item["data"], *item["demo"])
                for relation in FEW
                for fact in relation.facts
                for lang in LANGUAGES
                for wording in relation.questions[lang]
                if wording.format(s=fact.subject[lang]) == entry["question"]
            ]
            assert len(set(subjects)) == 1 + len(item["demo"])


def test_held_out_wordings_are_never_taught():
    taught = corpus.instructions(FEW, seed=0, count=3000, held_out=1)
    files = corpus.questions(FEW, seed=0, held_out=1)
    text = "\n".join(record["inputs"] for record in taught)
    for items in files.values():
        for item in items:
            assert item["data"]["question"] not in text
    with pytest.raises(UserError, match="held_out=3"):
        corpus.questions(FEW, seed=0, held_out=3)


def test_form_is_that_of_the_published_files(shared_dir):
    path = shared_dir / "data/eval/MMLU/global_facts_test.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    theirs = json.loads(path.read_text())[0]
    ours = corpus.questions(FEW, seed=0)["capitals_en.json"][0]
    assert list(ours) == list(theirs)
    assert list(ours["data"]) == list(theirs["data"])
    assert list(ours["demo"][0]) == list(theirs["demo"][0])
