import numpy as np
import pytest

from openba_jax.data.text.conversations import Dialogues, Translations
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    texts = [f"Human: is {i} odd? Assistant: {i * i} Translate 数字 {i}" for i in range(200)]
    path = tmp_path_factory.mktemp("conversations") / "tokenizer.model"
    return train_vocabulary(texts, 330, path, character_coverage=1.0)


def pairs_of(rule, record, vocabulary):
    texts = rule.texts(record, "here")
    return rule.pairs([np.array(ids, np.int32) for ids in vocabulary.encode_all(texts)], 1)


def test_turns_carry_their_history(vocabulary):
    turns = [{"human": "is 3 odd?", "assistant": "9"}, {"human": "4?", "assistant": "16"}]
    pairs = pairs_of(Dialogues(), {"conversation": turns}, vocabulary)
    human, assistant = vocabulary.encode("Human: "), vocabulary.encode("Assistant: ")
    history = []
    for turn, (source, target) in zip(turns, pairs, strict=True):
        asked, answer = vocabulary.encode(turn["human"]), vocabulary.encode(turn["assistant"])
        history += [*human, *asked, 1, *assistant]
        assert source.tolist() == history
        assert target.tolist() == [*answer, 1]
        history += [*answer, 1]
        assert source.dtype == target.dtype == np.int32


def test_both_directions(vocabulary):
    rule = Translations()
    there, back = pairs_of(rule, {"en": "is 3 odd?", "zh": "数字 3"}, vocabulary)
    assert vocabulary.decode(there[0]) == rule.to_second + "is 3 odd?"
    assert vocabulary.decode(there[1][:-1]) == "数字 3"
    assert vocabulary.decode(back[1][:-1]) == "is 3 odd?"
    assert back[0].tolist() == vocabulary.encode(rule.to_first + "数字 3")
    assert (there[1][-1], back[1][-1]) == (1, 1)
    assert 1 not in there[0]


@pytest.mark.parametrize("turns", [None, "hello", [], ["hello"]])
def test_no_dialogue(turns):
    with pytest.raises(UserError, match="file line 3 has no dialogue in column 'conversation'"):
        Dialogues().texts({"conversation": turns}, "file line 3")


def test_a_missing_text():
    turns = [{"human": "a", "assistant": "b"}, {"human": "c"}]
    with pytest.raises(UserError, match="line 3 turn 2 has no column 'assistant'"):
        Dialogues().texts({"conversation": turns}, "line 3")
    with pytest.raises(UserError, match="line 3 has no column 'zh'"):
        Translations().texts({"en": "a"}, "line 3")
