from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.model import OpenBAModel
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.transform import take
from openba_jax.pruning.vocabulary import (
    coverage,
    pieces_of,
    prune_vocabulary,
    read_counts,
    sum_counts,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def small_model(vocab_size: int, embed_dim: int) -> OpenBAModel:
    return OpenBAModel(
        OpenBAConfig(
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            num_heads=1,
            head_dim=embed_dim,
            mlp_dim=1,
            encoder_layers=1,
            decoder_layers=1,
        )
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece model of 400 pieces."""
    proto = sentencepiece_model_pb2.ModelProto()
    pieces = [("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)]
    pieces += [(f"<0x{i:02X}>", BYTE) for i in range(256)]
    pieces += [(f"▁word{i}", NORMAL) for i in range(140)] + [("<keep>", USER_DEFINED)]
    for i, (piece, kind) in enumerate(pieces):
        proto.pieces.add(piece=piece, type=kind, score=-float(i))
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.pad_id, proto.trainer_spec.eos_id = 0, 1
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id = 2, -1
    path = tmp_path_factory.mktemp("vocabulary") / "old.model"
    path.write_bytes(proto.SerializeToString())
    return path


def test_golden(golden_dir, tmp_path: Path) -> None:
    golden = golden_dir("vocab", "new.model", "embedding_before.npz", "embedding_after.npz")
    facts = json.loads((golden / "vocab_prune.json").read_text())
    counts = read_counts(golden / "token_freq.txt")
    np.testing.assert_array_equal(counts, read_counts(golden / "freq_by_original_script.txt"))
    pruned = prune_vocabulary(golden / "old.model", counts, facts["new_vocab_num"])
    pruned.save(tmp_path / "new.model")
    assert (tmp_path / "new.model").read_bytes() == (golden / "new.model").read_bytes()
    assert pruned.pieces == facts["new_pieces"]
    assert list(pruned.rows) == facts["full_id_map"]

    before = np.load(golden / "embedding_before.npz")
    plan = Plan.identity(small_model(896, 16), "golden").narrow({"vocab": pruned.rows})
    assert pruned_model(plan).config.vocab_size == facts["padded_size"]
    axes = {
        "shared_embedding.weight": ("vocab", "embed"),
        "lm_head.weight": ("vocab", "embed"),
        "lm_head.bias": ("vocab",),
        "encoder.final_layernorm.weight": ("embed",),
    }
    small = take(dict(before), axes, plan.keep)
    after = np.load(golden / "embedding_after.npz")
    assert small.keys() == set(after.files)
    for name in after.files:
        np.testing.assert_array_equal(small[name], after[name])


def test_keeps_the_frequent_and_all_that_is_not_text(model: Path, tmp_path: Path) -> None:
    counts = np.zeros(400, np.int64)
    counts[[300, 310, 320]] = [5, 7, 5]
    counts[5] = 9  # A byte counts among the frequent, as in the original.
    pruned = prune_vocabulary(model, counts, 110)
    # 4 counted ids, then the lowest ids: control, unknown and byte pieces up to 106.
    assert pruned.rows[: pruned.pieces] == (*range(259), 300, 310, 320, 399)
    assert pruned.rows[pruned.pieces :][:103] == tuple(range(400, 503))
    assert len(pruned.rows) == 384
    assert set(pruned.rows[pruned.pieces + 103 :]) == {400}
    pruned.save(tmp_path / "new.model")
    tokenizer = SentencePieceProcessor(model_file=str(tmp_path / "new.model"))
    assert tokenizer.encode("word51", out_type=str) == ["▁word51"]
    assert tokenizer.get_score(260) == -310.0
    assert tokenizer.encode("word7", out_type=str)[-1] == "<0x37>"


def test_pruning_again_follows_the_plan(model: Path, tmp_path: Path) -> None:
    counts = np.zeros(400, np.int64)
    counts[259:399] = np.arange(140)
    first = prune_vocabulary(model, counts, 120)
    first.save(tmp_path / "first.model")
    kept = counts[list(first.rows[: first.pieces])]
    second = prune_vocabulary(tmp_path / "first.model", kept, 103)
    root = Plan.identity(small_model(512, 2), "root")
    parent = root.narrow({"vocab": first.rows})
    child = parent.narrow(parent.to_ancestor({"vocab": second.rows}))
    assert child.indices("vocab") == prune_vocabulary(model, counts, 103).rows


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.integers(0, 500), st.integers(0, 10**12), min_size=1), st.randoms())
def test_counts_files_may_be_in_any_order_and_form(tmp_path_factory, counts, shuffle) -> None:
    lines = list(counts.items())
    shuffle.shuffle(lines)
    folder = tmp_path_factory.mktemp("counts")
    (folder / "two.txt").write_text("".join(f"{i} {count}\n" for i, count in lines))
    pieces = ["▁a", "\u3000", "\u2028", "7", "\x85b", "\r", ""]
    three = "\n".join(f"{pieces[i % 7]} {i} {count}" for i, count in lines)
    (folder / "three.txt").write_bytes(three.encode())
    for name in ("two.txt", "three.txt"):
        read = read_counts(folder / name)
        assert {i: int(read[i]) for i in counts} == counts
        assert read.sum() == sum(counts.values())


def test_coverage_of_the_shipped_counts(shared_dir: Path) -> None:
    facts = json.loads((shared_dir / "reference" / "vocab_pruning.json").read_text())
    counts = read_counts(shared_dir / "data" / "vocab" / "vocab_freq.txt")
    assert counts.sum() == facts["shipped_frequency_file"]["total_tokens"]
    curve = coverage(counts)
    for size, percent in facts["coverage_percent_of_tokens_by_top_K"].items():
        digits = len(str(percent).partition(".")[2])
        assert round(100 * curve[int(size) - 1], digits) == percent
    assert curve[-1] == 1


def test_refuses_impossible_sizes(model: Path) -> None:
    counts = np.ones(10, np.int64)
    with pytest.raises(UserError, match=r"400 pieces to 102; .* special tokens, 103"):
        prune_vocabulary(model, counts, 102)
    with pytest.raises(UserError, match=r"400 pieces to 401; .* at most 400"):
        prune_vocabulary(model, counts, 401)
    with pytest.raises(UserError, match="counts go to id 503"):
        prune_vocabulary(model, np.ones(504, np.int64), 200)
    assert prune_vocabulary(model, counts, 400).pieces == 400
    # Of equal counts the first ids are kept: controls and bytes, of which no text can be made.
    with pytest.raises(UserError, match=r"150 most frequent pieces of .* bytes and controls alone"):
        prune_vocabulary(model, counts, 150)


def test_refuses_files_that_are_no_models(tmp_path: Path) -> None:
    counts = np.ones(10, np.int64)
    with pytest.raises(UserError, match="cannot be read"):
        prune_vocabulary(tmp_path / "missing.model", counts, 200)
    for content in (b"", b"no model at all \xff\xff"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(UserError, match="is not a sentencepiece model"):
            prune_vocabulary(tmp_path / "bad.model", counts, 200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("5 6\n7\n", "line 2: expected"),
        ("5 many\n", "line 1: expected"),
        ("5 6\n\n5 7\n", "line 3: id 5 is negative or listed twice"),
        ("-1 6\n", "line 1: id -1"),
    ],
)
def test_refuses_lines_that_are_no_counts(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "counts.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_counts(path)
    with pytest.raises(UserError, match="does not exist"):
        read_counts(tmp_path / "missing.txt")


def test_counts_of_stores_are_summed(tmp_path: Path) -> None:
    for name, text in {"a": "0 4\n2 1\n", "b": "x 1 5\ny 2 6\n"}.items():
        (tmp_path / name).write_text(text)
    summed = sum_counts([tmp_path / "a", tmp_path / "b"])
    np.testing.assert_array_equal(summed, [4, 5, 7])


def test_coverage_needs_tokens() -> None:
    with pytest.raises(UserError, match="no token was counted"):
        coverage(np.zeros(3, np.int64))


def test_counts_of_another_tokenizer_are_refused(model: Path, tmp_path: Path) -> None:
    pieces = pieces_of(model)
    path = tmp_path / "counts.txt"
    path.write_text("".join(f"{piece} {i} {i}\n" for i, piece in enumerate(pieces)))
    assert read_counts(path, pieces)[-1] == len(pieces) - 1
    others = [*pieces[:260], *reversed(pieces[260:])]
    with pytest.raises(UserError, match="counts the pieces of another tokenizer"):
        sum_counts([path], others)
