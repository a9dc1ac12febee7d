import json
import pickle

import hypothesis.strategies as st
import pytest
import sentencepiece
from hypothesis import given, settings
from made_up_text import words

from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabularies.registry import save_tokenizer
from openba_jax.data.vocabulary_training import (
    NORMALIZATIONS,
    TextSample,
    round_trips,
    train_vocabulary,
)
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import OpenBAIds


@pytest.mark.parametrize("which", ["old", "new"])
def test_encodings_of_the_original(golden_dir, which):
    folder = golden_dir("vocab", f"{which}.model")
    facts = json.loads((folder / "vocab_prune.json").read_text())["tokenizer_by_original_class"]
    vocabulary = OpenBAVocabulary(folder / f"{which}.model", newline=True)
    expected = facts[which]
    assert vocabulary.piece_count == expected["spm_pieces"]
    assert vocabulary.token_count == expected["vocab_size_with_specials"]
    assert vocabulary.size == expected["padded_vocab_size_tp1"]
    assert (vocabulary.sentinel(0), vocabulary.sentinel(99)) == (
        expected["extra_id_0"],
        expected["extra_id_99"],
    )
    assert [vocabulary.r_id, vocabulary.s_id, vocabulary.x_id] == [expected[x] for x in "RSX"]
    assert vocabulary.special_tokens()["\n"] == expected["newline"]
    for case in facts[f"{which}_encodings"]:
        assert vocabulary.encode(case["text"], parse_special=True) == case["ids"]
        assert vocabulary.decode(case["ids"]) == case["detokenized"]
    texts = [case["text"] for case in facts[f"{which}_encodings"]]
    expected = [case["ids"] for case in facts[f"{which}_encodings"]]
    assert vocabulary.encode_all(texts, parse_special=True) == expected


def test_published_ids():
    """Those of the mT5 vocabulary of OpenBA."""
    ids = OpenBAIds(250_100)
    assert (ids.sentinel(99), ids.sentinel(0)) == (250_100, 250_199)
    assert (ids.r_id, ids.s_id, ids.x_id) == (250_200, 250_201, 250_202)
    assert (ids.token_count, ids.size) == (250_203, 250_240)
    assert OpenBAIds(250_100, newline=True).special_tokens()["\n"] == 250_203
    with pytest.raises(ValueError, match="extra_id_100"):
        ids.sentinel(100)


def test_special_tokens_in_texts(vocabulary):
    ids = vocabulary.encode("ba<S>ba<extra_id_12></s>\nba", parse_special=True)
    plain = vocabulary.encode("ba")
    special = [vocabulary.sentinel(12), vocabulary.eos_id]
    assert ids == [*plain, vocabulary.s_id, *plain, *special, *vocabulary.encode("\nba")]
    assert vocabulary.decode(ids, skip_special_tokens=True) == "ba ba \nba"
    assert vocabulary.decode(ids) == "ba <S> ba <extra_id_12>  </s> \nba"


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=40))
def test_any_text_can_be_encoded(vocabulary, text):
    ids = vocabulary.encode(text)
    assert all(0 <= i < vocabulary.token_count for i in ids)
    assert vocabulary.unk_id not in ids  # Bytes stand in for unknown characters.


def test_unknown_as_a_string_is_its_id(vocabulary):
    # As in both of the original's tokenizers; V2's and Hugging Face's agree.
    plain = vocabulary.encode("ba")
    ids = [*plain, vocabulary.unk_id, *plain]
    assert vocabulary.encode("ba<unk>ba", parse_special=True) == ids
    assert vocabulary.decode(ids) == "ba <unk> ba"


def _reference_tokenize(vocabulary, text):
    """The original's way: the earliest special string, again and again."""
    specials, ids = vocabulary.special_tokens(), []
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary.path))
    while found := [token for token in specials if token in text]:
        first = min(found, key=text.index)
        before, _, text = text.partition(first)
        ids += [*pieces.EncodeAsIds(before), specials[first]]
    return ids + pieces.EncodeAsIds(text)


_ATOMS = ["<S>", "<R>", "<extra_id_0>", "<extra_id_7>", "<extra_id_100>", "</s>", "<pad>", "<unk>"]
_ATOMS += [" ", "  ", "\n", "\t", "\u3000", "你好", "中国", "😀", "ba", "<S", "extra_id_0>"]


@settings(deadline=None, max_examples=200)
@given(atoms=st.lists(st.sampled_from(_ATOMS), max_size=12), newline=st.booleans())
def test_mixed_text_gives_the_ids_of_the_reference(vocabulary, atoms, newline):
    text, tokenizer = "".join(atoms), OpenBAVocabulary(vocabulary.path, newline=newline)
    assert tokenizer.encode(text, parse_special=True) == _reference_tokenize(tokenizer, text)


def test_rows_without_a_token_decode_as_unknown(vocabulary):
    unknown = vocabulary.decode([vocabulary.unk_id])
    assert vocabulary.decode([vocabulary.size - 1]) == unknown
    assert vocabulary.decode([vocabulary.size + 1000]) == unknown


def test_training_again_gives_the_same_file(vocabulary, tmp_path):
    texts = [words(seed, 100) for seed in range(20)]
    again = train_vocabulary(iter(texts), 300, tmp_path / "again.model")
    assert again.fingerprint == vocabulary.fingerprint
    assert train_vocabulary(texts, 300, tmp_path / "again.model").path == again.path
    with pytest.raises(UserError, match=r"again.model is there already and differs"):
        train_vocabulary(texts, 299, tmp_path / "again.model")
    assert vocabulary.pieces([0]) == ["<pad>"]
    assert vocabulary.pieces(range(3, 259)) == [f"<0x{i:02X}>" for i in range(256)]


@pytest.mark.parametrize("space", [" ", ""])
def test_long_lines_are_not_ignored(tmp_path, space):
    """The trainer itself drops lines of more than 4192 bytes, and then finds no text here."""
    text = words(1, 3000).replace(" ", space)
    assert train_vocabulary([text], 290, tmp_path / "long.model").piece_count == 290


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (["hello world"], 5000, "at most 267"),
        ([words(1, 200)], 260, "characters of the texts alone need"),
        ([], 300, "there is no text"),
        (["", "\n"], 300, "there is no text"),
    ],
)
def test_impossible_sizes(tmp_path, capfd, texts, size, message):
    with pytest.raises(UserError, match=message):
        train_vocabulary(texts, size, tmp_path / "no.model")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_errors_while_reading_texts_come_through(tmp_path):
    def texts():
        yield words(1, 200)
        raise UserError("line 2 is bad.")

    with pytest.raises(UserError, match="line 2 is bad"):
        train_vocabulary(texts(), 300, tmp_path / "no.model")


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        OpenBAVocabulary(tmp_path / "missing.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        OpenBAVocabulary(tmp_path / "text.model")


def test_models_with_other_control_ids_are_refused(tmp_path):
    import sentencepiece

    with (tmp_path / "bos.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter([words(1, 500)]), model_writer=file, vocab_size=40, minloglevel=2
        )
    with pytest.raises(UserError, match="pad, eos and unk"):
        OpenBAVocabulary(tmp_path / "bos.model")


def test_can_be_sent_to_another_process(vocabulary):
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.encode("ba de") == vocabulary.encode("ba de")


@settings(deadline=None, max_examples=200)
@given(atoms=st.lists(st.sampled_from(_ATOMS) | st.text(max_size=5), max_size=12))
def test_any_text_comes_back_exactly(vocabulary, atoms):
    """Also blanks, newlines, full-width signs, and what looks like a special token."""
    text = "".join(atoms).replace("▁", "_")
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.decode(ids, skip_special_tokens=True) == text
    assert max(ids, default=3) < vocabulary.piece_count
    assert vocabulary.eos_id not in ids
    assert vocabulary.pad_id not in ids


@settings(deadline=None, max_examples=100)
@given(atoms=st.lists(st.sampled_from(_ATOMS), max_size=12))
def test_newlines_are_tokens_in_literal_text_too(vocabulary, atoms):
    text, tokenizer = "".join(atoms), OpenBAVocabulary(vocabulary.path, newline=True)
    ids = tokenizer.encode(text)
    newline = tokenizer.special_tokens()["\n"]
    assert ids.count(newline) == text.count("\n")
    expected = []
    for i, line in enumerate(text.split("\n")):
        expected += [newline] * (i > 0) + vocabulary.encode(line)
    assert ids == expected


def test_special_tokens_of_a_text(vocabulary):
    assert vocabulary.special_in("a <S></s> <extra_id_100> <extra_id_7>") == [
        *("<S>", "</s>", "<extra_id_7>")
    ]
    assert vocabulary.special_in("a\n < b") == []


def test_half_of_a_surrogate_pair_is_refused(vocabulary):
    with pytest.raises(UserError, match="half of a surrogate pair"):
        vocabulary.encode("ba \ud83d ba")


def test_settings_lie_beside_the_model(vocabulary, tmp_path):
    plain = save_tokenizer(tmp_path / "plain", vocabulary)
    assert [path.name for path in plain.parent.iterdir()] == ["tokenizer.model"]
    assert not OpenBAVocabulary(tmp_path / "plain" / "tokenizer.model").newline
    saved = save_tokenizer(tmp_path / "v2", OpenBAVocabulary(vocabulary.path, newline=True))
    assert json.loads((tmp_path / "v2/tokenizer_settings.json").read_text()) == {"newline": True}
    found = OpenBAVocabulary(tmp_path / "v2" / "tokenizer.model")
    assert (found.newline, found.token_count) == (True, vocabulary.token_count + 1)
    assert not OpenBAVocabulary(saved, newline=False).newline
    # By its path alone, and under another name.
    renamed = save_tokenizer(tmp_path / "v2", saved, "spiece.model")
    assert (tmp_path / "v2/spiece_settings.json").exists()
    assert OpenBAVocabulary(renamed).newline
    # What was there before does not stay.
    save_tokenizer(tmp_path / "v2", vocabulary)
    assert not OpenBAVocabulary(tmp_path / "v2" / "tokenizer.model").newline


@pytest.mark.parametrize(
    ("settings_file", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "holds no settings"),
        ('{"newline": 1}', "holds no settings"),
        ('{"newline": true, "tab": true}', "not known: tab"),
    ],
)
def test_damaged_settings(vocabulary, tmp_path, settings_file, message):
    model = save_tokenizer(tmp_path, vocabulary)
    (tmp_path / "tokenizer_settings.json").write_text(settings_file)
    with pytest.raises(UserError, match=message):
        OpenBAVocabulary(model)


def test_rows_count_the_newline(vocabulary, tmp_path):
    """Where pieces and the other special tokens fill the rows, the newline begins the next ones."""
    texts = [words(seed, 100) for seed in range(20)]
    path = train_vocabulary(texts, 384 - 103, tmp_path / "t.model", newline=True).path
    full = OpenBAVocabulary(path)
    assert (full.newline, full.token_count, full.size) == (True, 385, 512)
    with pytest.raises(UserError, match="has 281 pieces and needs 385 ids"):
        full.check_rows(384)
    OpenBAVocabulary(path, newline=False).check_rows(384)


def test_normalizations(tmp_path):
    texts = [f"{words(seed, 60)}，  好！\n{words(seed, 9)} " for seed in range(40)]
    kept = {}
    for normalization in NORMALIZATIONS:
        path = tmp_path / f"{normalization}.model"
        trained = train_vocabulary(texts, 330, path, normalization=normalization)
        kept[normalization] = round_trips(trained, texts)
    assert kept == {**dict.fromkeys(NORMALIZATIONS, 0), "identity": len(texts)}


def test_samples_of_texts():
    texts = [f"{i} " * 20_000 for i in range(50)]
    sample = TextSample(10, 100)
    assert list(sample.through(texts)) == texts
    assert len(set(sample.texts)) == 10
    assert max(map(len, sample.texts)) == 100
    again = TextSample(10, 100)
    list(again.through(texts))
    assert again.texts == sample.texts
