import gzip
import itertools
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from made_up_text import words

from openba_jax.data.loader import BatchLoader
from openba_jax.data.store.token_store import TokenStore
from openba_jax.data.text import encoding
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.conversations import Dialogues, Translations
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.files import only_process, sha256
from openba_jax.objectives.mixture import get_mixture
from openba_jax.pruning import vocabulary as pruning


def prepare_text(files, vocabulary, output, *, strict=False, **rule):
    return prepare(
        [TextSource("all", files)], TextGroups(**rule), vocabulary, output, strict=strict
    )


def prepare_instructions(files, vocabulary, output, **rule):
    return prepare([TextSource("all", files)], Instructions(**rule), vocabulary, output)


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_groups_of_the_original(golden_dir, tmp_path):
    golden = golden_dir("indexed")
    vocabulary = OpenBAVocabulary(golden_dir("vocab") / "old.model", newline=True)
    rule = json.loads((golden / "pretrain_spancorr.json").read_text())
    prepare_text(
        [golden / "pretrain_docs.jsonl"],
        vocabulary,
        tmp_path / "store",
        group_size=rule["group_size"],
        batch_size=rule["batch_size"],
    )
    for suffix in ("bin", "idx"):
        made = (tmp_path / f"store.{suffix}").read_bytes()
        assert made == (golden / f"pretrain_spancorr.{suffix}").read_bytes()


def test_pairs_of_the_original(golden_dir, tmp_path):
    golden = golden_dir("indexed")
    vocabulary = OpenBAVocabulary(golden_dir("vocab") / "old.model", newline=True)
    rule = json.loads((golden / "finetune_multitask.json").read_text())
    manifest = prepare_instructions(
        [golden / "finetune_pairs.jsonl"],
        vocabulary,
        tmp_path / "store",
        max_length=rule["max_length"],
    )
    assert manifest["numbers"]["too_long"] == 1
    for suffix in ("bin", "idx"):
        made = (tmp_path / f"store.{suffix}").read_bytes()
        assert made == (golden / f"finetune_multitask.{suffix}").read_bytes()


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    group_size=st.integers(2, 30),
    batch_size=st.integers(0, 5),
)
def test_rule_of_groups(tmp_path_factory, vocabulary, sizes, group_size, batch_size):
    folder = tmp_path_factory.mktemp("rule")
    texts = [words(i, size) for i, size in enumerate(sizes)]
    source = write_jsonl(folder / "docs.jsonl", [{"text": text} for text in texts])
    encoded = [[*vocabulary.encode(text), 1] if text else [] for text in texts]
    groups = []
    size = batch_size or len(encoded)
    for first in range(0, len(encoded), size):
        stream = list(itertools.chain(*encoded[first : first + size]))
        whole = len(stream) // group_size * group_size
        groups += [stream[i : i + group_size] for i in range(0, whole, group_size)]
    arguments = {"group_size": group_size, "batch_size": batch_size}
    if not groups:
        with pytest.raises(UserError, match=f"no group of {group_size} tokens"):
            prepare_text([source], vocabulary, folder / "out", **arguments)
        assert not list(folder.glob("out*"))
        return
    numbers = prepare_text([source], vocabulary, folder / "out", **arguments)["numbers"]
    store = TokenStore(folder / "out")
    made = [store.source("text", j).tolist() for j in range(store.count("text"))]
    assert made == groups
    assert numbers["documents"] == len(texts)
    assert numbers["empty_documents"] == sizes.count(0)
    assert numbers["tokens"] == len(groups) * group_size
    assert numbers["tokens"] + numbers["dropped_tokens"] == sum(map(len, encoded))


def test_manifest_and_counts(vocabulary, tmp_path):
    source = tmp_path / "docs.txt.gz"
    source.write_bytes(gzip.compress("\n".join(words(i, 30) for i in range(9)).encode()))
    manifest = prepare_text([source], vocabulary, tmp_path / "out", group_size=16)
    assert manifest == json.loads((tmp_path / "out.json").read_text())
    assert manifest["complete"]
    assert manifest["vocabulary"]["sha256"] == vocabulary.fingerprint
    assert manifest["sources"][0]["inputs"][0]["sha256"] == sha256(source)
    assert set(manifest["files"]) == {"out.bin", "out.idx", "out.counts.txt"}
    for name, file in manifest["files"].items():
        assert file["sha256"] == sha256(tmp_path / name)
    assert not list(tmp_path.glob("*.tmp"))

    store = TokenStore(tmp_path / "out")
    ids = store.read("text", np.arange(store.count("text"))).ids
    lines = (tmp_path / "out.counts.txt").read_text().split("\n")
    assert lines.pop() == ""
    rows = [line.rsplit(" ", 2) for line in lines]
    counts = {int(i): int(count) for _, i, count in rows}
    assert len(counts) == vocabulary.piece_count
    expected = np.bincount(ids.ravel(), minlength=vocabulary.piece_count)
    assert expected[vocabulary.eos_id] > 0
    expected[vocabulary.eos_id] = 0  # It stands between documents and is no text.
    assert [counts[i] for i in range(vocabulary.piece_count)] == expected.tolist()
    assert vocabulary.pieces([int(i) for _, i, _ in rows]) == [piece for piece, _, _ in rows]
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_counts_can_be_read_by_vocabulary_pruning(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}])
    prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    store = TokenStore(tmp_path / "out")
    ids = store.read("text", np.arange(store.count("text"))).ids
    counts = pruning.read_counts(tmp_path / "out.counts.txt")
    expected = np.bincount(ids.ravel(), minlength=len(counts))
    np.testing.assert_array_equal(counts[2:], expected[2:])
    assert counts[:2].tolist() == [0, 0]


def test_prepared_stores_train(vocabulary, tmp_path):
    groups = write_jsonl(tmp_path / "a.jsonl", [{"text": words(i, 40)} for i in range(5)])
    pairs = write_jsonl(tmp_path / "b.jsonl", [{"inputs": "ba de", "targets": "gi"}])
    prepare_text([groups], vocabulary, tmp_path / "groups", group_size=20)
    prepare_instructions([pairs], vocabulary, tmp_path / "pairs")
    for name, prefix in (("ul2", "groups"), ("flan", "pairs")):
        loader = BatchLoader(get_mixture(name), [tmp_path / prefix], vocabulary, 8, 30, 30)
        assert loader.batch(0)["decoder_loss_weights"].sum(axis=1).min() > 1


def test_instructions(vocabulary, tmp_path):
    records = [
        {"inputs": "ba", "targets": "de", "text": "“ gi ko ”", "more": 1},
        {"inputs": " ba", "targets": "de", "text": "“gi"},
        {"inputs": "ba", "targets": ""},
        {"inputs": words(1, 300), "targets": "de"},
    ]
    source = write_jsonl(tmp_path / "pairs.jsonl", records)
    manifest = prepare_instructions(
        [source], vocabulary, tmp_path / "out", max_length=100, task_prefix="su "
    )
    store = TokenStore(tmp_path / "out")
    sources = [store.source("instructions", j).tolist() for j in range(3)]
    assert sources == [vocabulary.encode(text) for text in ("gi koba", "“gi ba", "ba")]
    targets = [store.target("instructions", j).tolist() for j in range(3)]
    assert targets == [[*vocabulary.encode(text), 1] for text in ("su de", "su de", "su ")]
    assert (manifest["numbers"]["documents"], manifest["numbers"]["too_long"]) == (4, 1)
    with pytest.raises(UserError, match=r"line 1 has no column 'question'; it has 'inputs'"):
        prepare_instructions([source], vocabulary, tmp_path / "q", input_column="question")
    with pytest.raises(UserError, match="no pair with a source of at most 0"):
        prepare_instructions([source], vocabulary, tmp_path / "q", max_length=0)
    assert not list(tmp_path.glob("q*"))


@pytest.mark.parametrize("space", [" ", "\n", "\n \n", "  ", " <S> "])
@pytest.mark.parametrize("newline", [False, True])
@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc"])
def test_documents_of_any_length(tmp_path, monkeypatch, space, newline, normalization):
    """Cutting a text between words does not change its ids."""
    text = words(3, 2000).replace(" ", space)
    texts = [words(seed, 100) for seed in range(20)]
    path = tmp_path / "tokenizer.model"
    vocabulary = train_vocabulary(texts, 300, path, normalization=normalization, newline=newline)
    assert " " in vocabulary.separators
    assert ("\n" in vocabulary.separators) == (normalization == "nmt_nfkc" and not newline)
    (whole,) = encoding.encode_texts(vocabulary, [text])
    monkeypatch.setattr(encoding, "_PART_CHARACTERS", 100)
    (parts,) = encoding.encode_texts(vocabulary, [text])
    np.testing.assert_array_equal(parts, whole)
    uncut = text.replace(space, "")
    (ids,) = encoding.encode_texts(vocabulary, [uncut])
    assert ids.tolist() == vocabulary.encode(uncut)


def test_finished_work_is_left_alone(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}])
    output = tmp_path / "out"
    first = prepare_text([source], vocabulary, output, group_size=8)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert prepare_text([source], vocabulary, output, group_size=8) == first
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="from other files or by another rule"):
        prepare_text([source], vocabulary, output, group_size=9)
    (tmp_path / "out.bin").write_bytes(b"")  # Damaged: made again.
    assert prepare_text([source], vocabulary, output, group_size=8) == first
    assert TokenStore(output).count("text") == first["numbers"]["pairs"]
    write_jsonl(source, [{"text": words(2, 90)}])
    with pytest.raises(UserError, match="from other files or by another rule"):
        prepare_text([source], vocabulary, output, group_size=8)


def test_a_killed_run_can_be_started_again(vocabulary, tmp_path):
    """Its manifest says that it did not finish, whatever else it left, and with whatever rule."""
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}])
    first = prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    (tmp_path / "out.json").write_text(json.dumps(first | {"complete": False}))
    (tmp_path / "out.bin.tmp").write_bytes(b"half")
    second = prepare_text([source], vocabulary, tmp_path / "out", group_size=9)
    assert second["complete"]
    assert TokenStore(tmp_path / "out").source("text", 0).shape == (9,)
    assert not list(tmp_path.glob("*.tmp"))


def test_files_from_elsewhere_are_not_overwritten(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}])
    (tmp_path / "out.idx").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"out.idx in .* from elsewhere"):
        prepare_text([source], vocabulary, tmp_path / "out")
    assert (tmp_path / "out.idx").read_bytes() == b"precious"
    (tmp_path / "notes.json").write_text('{"my": "notes"}')
    with pytest.raises(UserError, match=r"notes.json in .* from elsewhere"):
        prepare_text([source], vocabulary, tmp_path / "notes")


def test_bad_input_leaves_nothing(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}, {"body": "x"}])
    with pytest.raises(UserError, match=r"a.jsonl line 2 has no column 'text'; it has 'body'"):
        prepare_text([source], vocabulary, tmp_path / "out", group_size=8, strict=True)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="0 documents give no group"):
        prepare_text([tmp_path / "empty.jsonl"], vocabulary, tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere.jsonl does not exist"):
        prepare_text([tmp_path / "nowhere.jsonl"], vocabulary, tmp_path / "out")
    with pytest.raises(UserError, match="no input file"):
        prepare_text([], vocabulary, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_corrupt_lines_are_left_out_and_told(vocabulary, tmp_path, caplog):
    """A line that cannot be used stands for nothing; all around it stays."""
    good = [json.dumps({"text": words(i, 60)}) for i in range(6)]
    bad = ['{"text": ', '{"body": "x"}', '{"text": 5}', "[1]", '{"text": "\udcff"}', "[" * 100_000]
    lines = [line for pair in zip(good, bad, strict=True) for line in pair]
    source = tmp_path / "a.jsonl"
    source.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (tmp_path / "good.jsonl").write_text("\n".join(good))
    with caplog.at_level("WARNING", logger="absl"):
        manifest = prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    assert manifest["numbers"]["bad_items"] == len(bad)
    assert len(manifest["bad_items"]) == len(caplog.records) == len(bad)
    for number, told in zip(range(2, 13, 2), manifest["bad_items"], strict=True):
        assert told.startswith(f"{source} line {number} ")
    prepare_text([tmp_path / "good.jsonl"], vocabulary, tmp_path / "good", group_size=8)
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "good.bin").read_bytes()
    with pytest.raises(UserError, match=r"a.jsonl line 2 is not JSON"):
        prepare_text([source], vocabulary, tmp_path / "strict", group_size=8, strict=True)
    assert not list(tmp_path.glob("strict*"))


def test_a_corpus_that_lacks_the_column_is_another_one(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "title": "y"}])
    with pytest.raises(UserError, match=r"line 1 has no column 'text'; it has 'body', 'title'"):
        prepare_text([source], vocabulary, tmp_path / "out")
    (tmp_path / "b.jsonl").write_text("broken\n\n")
    with pytest.raises(UserError, match=r"1 that cannot be used, the first: .*b.jsonl line 1 is"):
        prepare_text([tmp_path / "b.jsonl"], vocabulary, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_special_tokens_in_the_text(vocabulary, tmp_path, caplog):
    """They become what they spell, as in the original's tokenizer, and are counted."""
    text = "ba <extra_id_0> de</s> gi<S>"
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text}])
    manifest = prepare_text([source], vocabulary, tmp_path / "out", group_size=2)
    stored = TokenStore(tmp_path / "out")
    ids = stored.read("text", np.arange(stored.count("text"))).ids.ravel().tolist()
    assert {vocabulary.sentinel(0), vocabulary.s_id} <= set(ids)
    assert ids.count(1) == 2  # The document's own eos, and that in the text.
    assert manifest["numbers"]["special_tokens"] == 3
    named = [r.getMessage() for r in caplog.records if "special token" in r.getMessage()]
    assert named == [
        f"A text spells out a special token, {source} line 1: {token}"
        for token in ("<extra_id_0>", "</s>", "<S>")
    ]


def test_newlines_are_no_special_tokens_in_the_text(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "ba\nde\n<X>"}])
    with_newlines = OpenBAVocabulary(vocabulary.path, newline=True)
    manifest = prepare_text([source], with_newlines, tmp_path / "out", group_size=2)
    assert manifest["numbers"]["special_tokens"] == 1


def test_totals_of_sources(vocabulary, tmp_path):
    """Groups do not span sources, whatever the batches; lines of a source do span its files."""
    files = [tmp_path / f"{i}.txt" for i in range(3)]
    for i, file in enumerate(files):
        file.write_text("\n".join(words(10 * i + j, 30) for j in range(4)))
    sources = [TextSource("one", files[:2], 2.0), TextSource("two", files[2:], 1.0)]
    manifest = prepare(sources, TextGroups(16, batch_size=0), vocabulary, tmp_path / "both")
    parts = b""
    for source in sources:
        alone = prepare([source], TextGroups(16, batch_size=0), vocabulary, tmp_path / source.name)
        described = next(s for s in manifest["sources"] if s["name"] == source.name)
        assert described["numbers"] == alone["numbers"]
        assert described["weight"] == source.weight
        assert described["text"] == alone["numbers"]["pairs"]
        assert len(described["inputs"]) == len(source.files)
        parts += (tmp_path / f"{source.name}.bin").read_bytes()
    assert (tmp_path / "both.bin").read_bytes() == parts
    for name, number in manifest["numbers"].items():
        assert number == sum(source["numbers"][name] for source in manifest["sources"])


def test_tables_give_the_same_store(vocabulary, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"inputs": words(i, 20), "targets": "ba", "text": None} for i in range(30)]
    write_jsonl(tmp_path / "a.jsonl", [{k: v for k, v in r.items() if v} for r in records])
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "a.parquet")
    for name in ("jsonl", "parquet"):
        prepare_instructions([tmp_path / f"a.{name}"], vocabulary, tmp_path / name)
    for suffix in ("bin", "idx"):
        made = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("jsonl", "parquet")]
        assert made[0] == made[1]


def test_dialogues_and_translations(vocabulary, tmp_path):
    dialogue = [{"human": "ba", "assistant": "de"}, {"human": words(1, 99), "assistant": "gi"}]
    source = write_jsonl(tmp_path / "a.jsonl", [{"conversation": dialogue}])
    manifest = prepare(
        [TextSource("a", [source])], Dialogues(max_length=60), vocabulary, tmp_path / "a"
    )
    assert (manifest["numbers"]["pairs"], manifest["numbers"]["too_long"]) == (1, 1)
    assert TokenStore(tmp_path / "a").target("instructions", 0)[-1] == 1
    source = write_jsonl(tmp_path / "b.jsonl", [{"en": "ba", "zh": "de"}])
    prepare([TextSource("b", [source])], Translations(), vocabulary, tmp_path / "b")
    store = TokenStore(tmp_path / "b")
    assert store.count("instructions") == 2
    assert store.target("instructions", 1).tolist() == [*vocabulary.encode("ba"), 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_text_that_is_no_unicode_is_left_out(vocabulary, tmp_path, workers):
    lines = [json.dumps({"text": words(i, 60)}) for i in range(6)]
    lines.insert(3, '{"text": "half a pair: \\ud800"}')
    lines.insert(5, '{"text": "a whole pair: \\ud83d\\ude00"}')
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    source = TextSource("all", [tmp_path / "docs.jsonl"])
    manifest = prepare([source], TextGroups(8), vocabulary, tmp_path / "out", workers=workers)
    (bad,) = manifest["bad_items"]
    assert "docs.jsonl line 4 has half of a surrogate pair" in bad
    assert manifest["numbers"]["documents"] == 7


def test_a_null_in_the_first_record_is_left_out(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": None}, {"text": words(1, 90)}])
    manifest = prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    assert manifest["numbers"]["bad_items"] == 1
    with pytest.raises(UserError, match="line 1 has no text in column 'text' but None"):
        prepare_text([source], vocabulary, tmp_path / "strict", group_size=8, strict=True)


def test_names_with_brackets_are_names(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "[zh] a.jsonl", [{"text": words(1, 90)}])
    assert prepare_text([source], vocabulary, tmp_path / "out", group_size=8)["complete"]


def test_one_process_writes_an_output(vocabulary, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": words(1, 90)}])
    with only_process(tmp_path / "out"), pytest.raises(UserError, match="another process"):
        prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    prepare_text([source], vocabulary, tmp_path / "out", group_size=8)
    assert not (tmp_path / "out.lock").exists()
