"""A text that was made of kept pieces is encoded as before the vocabulary was pruned."""

from __future__ import annotations

import io

import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.errors import UserError
from openba_jax.pruning.pieces.merges import merge_closure
from openba_jax.pruning.vocabulary import prune_vocabulary

NORMAL, UNKNOWN, CONTROL, UNUSED = 1, 2, 3, 5
SYLLABLES = ["ba", "de", "gi", "ko", "lu", "ma", "ne", "pi", "ro", "su", "ta", "we"]


def sentences(count):
    rng = np.random.default_rng(0)
    lexicon = ["".join(rng.choice(SYLLABLES, rng.integers(1, 5))) for _ in range(300)]
    lexicon += ["".join(map(chr, rng.integers(0x4E00, 0x4F00, 3))) for _ in range(100)]
    return [" ".join(rng.choice(lexicon, 12)) for _ in range(count)]


@pytest.fixture(scope="module", params=["unigram", "bpe", "word", "char"])
def trained(request, tmp_path_factory):
    """A model of each kind, and sentences."""
    texts = sentences(500)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=request.param,
        vocab_size=700,
        hard_vocab_limit=False,
        byte_fallback=request.param in ("unigram", "bpe"),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp(request.param) / "old.model"
    path.write_bytes(model.getvalue())
    return path, texts


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0.2, 0.9), data=st.data())
def test_trained_models(trained, seed, share, data):
    path, texts = trained
    old = SentencePieceProcessor(model_file=str(path))
    rng = np.random.default_rng(seed)
    # The pieces of some sentences, and a random part of the others.
    counts = np.bincount(np.concatenate(old.encode(texts[:5])), minlength=old.get_piece_size()) + (
        rng.random(old.get_piece_size()) < share
    )
    size = max(103, int((counts > 0).sum()))
    pruned = prune_vocabulary(path, counts, min(size, old.get_piece_size()))
    new = SentencePieceProcessor(model_proto=pruned.model)
    ids = {id_of: row for row, id_of in enumerate(pruned.rows[: pruned.pieces])}
    kept = [old.id_to_piece(i) for i in ids if i > 2 and not old.is_byte(i)]
    chosen = data.draw(st.lists(st.sampled_from(kept), max_size=30))
    texts = [*texts[:5], "".join(chosen).replace("▁", " ")]
    compared = 0
    for text in texts:
        before = old.encode(text)
        if set(before) <= ids.keys():
            compared += 1
            assert new.encode(text) == [ids[i] for i in before]
    assert compared >= 5


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_scores_of_bpe_pieces(tmp_path_factory, data):
    """Pieces, scores (ties among them) and texts that no trainer would think of."""
    pieces = data.draw(
        st.lists(st.text("abc", min_size=1, max_size=6), min_size=110, max_size=130, unique=True)
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    for name, kind in (("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)):
        proto.pieces.add(piece=name, type=kind)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    for piece in pieces:
        proto.pieces.add(piece=piece, type=NORMAL, score=-float(rng.integers(0, 60)))
    path = tmp_path_factory.mktemp("bpe") / "old.model"
    path.write_bytes(proto.SerializeToString())
    old = SentencePieceProcessor(model_file=str(path))
    counts = np.append([0, 0, 0], rng.random(len(pieces)) < 0.5).astype(int)
    pruned = prune_vocabulary(path, counts, 103)
    new = SentencePieceProcessor(model_proto=pruned.model)
    ids = {id_of: row for row, id_of in enumerate(pruned.rows[: pruned.pieces])}
    texts = data.draw(st.lists(st.text("abc", max_size=20), min_size=5, max_size=20))
    for text in [*texts, *(old.id_to_piece(i) for i in ids if i > 2)]:
        before = old.encode(text)
        if set(before) <= ids.keys():
            assert new.encode(text) == [ids[i] for i in before]


def test_merges_are_counted(trained):
    path, texts = trained
    old = SentencePieceProcessor(model_file=str(path))
    counts = np.bincount(np.concatenate(old.encode(texts)), minlength=old.get_piece_size())
    size = min(300, old.get_piece_size())
    pruned = prune_vocabulary(path, counts, size)
    frequent = set(np.argsort(-counts, kind="stable")[:size].tolist())
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    frequent |= {i for i, piece in enumerate(proto.pieces) if piece.type != NORMAL}
    assert pruned.merges == pruned.pieces - len(frequent)
    assert (pruned.merges > 0) == (path.parent.name.startswith("bpe"))


def test_what_a_piece_is_built_of():
    scores = {"ab": -1.0, "cd": -2.0, "abcd": -3.0, "bc": -4.0, "bcd": -5.0, "aa": -1.0}
    assert merge_closure(["abcd"], scores) == {"abcd", "ab", "cd"}
    assert merge_closure(["bcd"], scores) == {"bcd", "cd"}
    # What is never arrived at, and what has no merges at all.
    assert merge_closure(["xyz", "a", "aabcd"], scores) == {"xyz", "a", "aabcd"} | {
        "aa",
        "bc",
        "bcd",
        "cd",
    } - {"bc"}


def test_bpe_models_with_unused_pieces_are_refused(tmp_path):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    for name, kind in (("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)):
        proto.pieces.add(piece=name, type=kind)
    for i in range(120):
        proto.pieces.add(piece=f"x{i}", type=UNUSED if i == 7 else NORMAL)
    path = tmp_path / "old.model"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match="BPE model with unused pieces"):
        prune_vocabulary(path, np.ones(123, int), 110)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("pieces", [300, 128 * 4 - 103])
def test_the_row_of_the_newline_is_kept(tmp_path, pieces):
    """Also where the other tokens fill the padded rows to the last one."""
    proto = sentencepiece_model_pb2.ModelProto()
    for name, kind in (("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)):
        proto.pieces.add(piece=name, type=kind)
    for i in range(pieces - 3 + 50):
        proto.pieces.add(piece=f"x{i}", type=NORMAL)
    path = tmp_path / "old.model"
    path.write_bytes(proto.SerializeToString())
    pruned = prune_vocabulary(path, np.arange(pieces + 50)[::-1], pieces, newline=True)
    assert pruned.pieces == pieces
    newline = pieces + 50 + 103
    assert pruned.rows[pieces + 103] == newline
    assert pruned.rows.count(newline) == 1
    assert len(pruned.rows) == -(-(pieces + 104) // 128) * 128
    pruned.save(tmp_path / "new.model")
    saved = OpenBAVocabulary(tmp_path / "new.model")
    assert saved.newline
    assert saved.special_tokens()["\n"] == pruned.rows.index(newline)
    assert saved.size == len(pruned.rows)
    plain = prune_vocabulary(path, np.arange(pieces + 50)[::-1], pieces)
    assert newline not in plain.rows
