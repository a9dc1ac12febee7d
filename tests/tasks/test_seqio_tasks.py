"""seqio's datasets against the native arrays. One module only: importing seqio takes long."""

import contextlib
import copy
import json
import os
import pickle
import subprocess
import sys
import unittest.mock
from pathlib import Path

import numpy as np
import pytest

from openba_jax.data.layouts import as_batch
from openba_jax.data.samples import build_samples
from openba_jax.data.store.token_store import open_stores, store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import get_mixture, mixture_names

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTHS = {"inputs": 45, "targets": 40}
GROUPS, PAIRS, HELD_OUT = 30, 8, 3


@pytest.fixture(scope="module")
def seqio():
    import seqio

    return seqio


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A vocabulary and a store, named in gin."""
    import gin
    from openba_jax.seqio.settings import data_files

    folder = tmp_path_factory.mktemp("tasks")
    texts = [f"{i} {i * i} {i**3}" for i in range(200)]
    vocabulary = train_vocabulary(texts, 280, folder / "tokenizer.model")
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder / "store", store_dtype(vocabulary.token_count)) as writer:
        writer.add_groups(rng.integers(3, vocabulary.piece_count, (GROUPS, 40)))
        for length in range(PAIRS):
            ids = rng.integers(3, vocabulary.piece_count, 60)
            source, target = ids[: 8 * length], [*ids[10 : 12 + length], 1]
            sizes = np.array([len(source), len(target)])
            writer.add_pairs("instructions", np.array([*source, *target]), sizes)
    with gin.unlock_config():
        gin.bind_parameter("data_files.stores", [str(folder / "store")])
        gin.bind_parameter("data_files.vocabulary", str(vocabulary.path))
        gin.bind_parameter("data_files.held_out", HELD_OUT)
        gin.bind_parameter("data_files.seed", 5)
    assert data_files().held_out == HELD_OUT
    yield folder
    gin.clear_config()


def native(files, name, indices, epoch):
    """The arrays of the native loader for some examples."""
    task = get_mixture(name).tasks[0]
    vocabulary = open_vocabulary(files / "tokenizer.model")
    epochs = np.full(len(indices), epoch)
    samples = build_samples(
        task, open_stores([files / "store"]), indices, epochs, vocabulary, 45, 40, 5
    )
    return as_batch(**samples)


def converted(seqio, name, split, count, **arguments):
    """A batch as T5X gets it."""
    converter = seqio.EncDecFeatureConverter(pack=False)
    dataset = seqio.get_dataset(
        name, LENGTHS, dataset_split=split, feature_converter=converter, **arguments
    )
    return next(dataset.batch(count, drop_remainder=True).as_numpy_iterator())


def test_the_folder_tasks_is_the_same(seqio):
    import tasks.vocabulary
    from openba_jax.seqio.vocabulary import OpenBAVocabulary

    assert tasks.vocabulary.OpenBAVocabulary is OpenBAVocabulary


def test_all_names_are_registered(seqio, files):
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    two_sequences = {n for n in mixture_names() if get_mixture(n).layout == "encoder_decoder"}
    assert two_sequences <= known


@pytest.mark.parametrize("name", ["ul2_r3", "ul2_s", "flan"])
def test_examples_are_the_native_ones(seqio, files, name):
    size = (PAIRS if name == "flan" else GROUPS) - HELD_OUT
    batch = converted(seqio, name, "train", 2 * size, shuffle=False, num_epochs=2)
    for epoch in range(2):
        expected = native(files, name, np.arange(size), epoch)
        assert batch.keys() == expected.keys()
        for feature, values in expected.items():
            part = batch[feature][epoch * size : (epoch + 1) * size]
            np.testing.assert_array_equal(part, values, err_msg=feature)
    held_out = converted(seqio, name, "validation", HELD_OUT, shuffle=False)
    for feature, values in native(files, name, size + np.arange(HELD_OUT), 0).items():
        np.testing.assert_array_equal(held_out[feature], values)


def test_shards_divide_the_shuffled_split(seqio, files):
    arguments = {"shuffle": True, "seed": 2, "num_epochs": 1}
    size = GROUPS - HELD_OUT
    whole = converted(seqio, "ul2_x3", "train", size, **arguments)["encoder_input_tokens"]
    ordered = native(files, "ul2_x3", np.arange(size), 0)["encoder_input_tokens"]
    assert (whole != ordered).any()
    parts = [
        converted(
            seqio, "ul2_x3", "train", size // 3, shard_info=seqio.ShardInfo(i, 3), **arguments
        )["encoder_input_tokens"]
        for i in range(3)
    ]
    for rows in (whole, np.concatenate(parts)):
        np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(ordered, axis=0))


def test_mixture_and_packing(seqio, files):
    vocabulary = open_vocabulary(files / "tokenizer.model")
    batch = converted(seqio, "ul2", "train", 60, shuffle=True, seed=1, num_epochs=None)
    prefixes = {vocabulary.r_id, vocabulary.s_id, vocabulary.x_id}
    assert set(batch["encoder_input_tokens"][:, 0]) == prefixes
    packed = seqio.get_dataset(
        "flan",
        {"inputs": 90, "targets": 40},
        dataset_split="train",
        shuffle=False,
        feature_converter=seqio.EncDecFeatureConverter(pack=True),
    )
    assert max(row["encoder_segment_ids"].max() for row in packed.as_numpy_iterator()) > 1


def test_without_lengths_nothing_is_cut(seqio, files):
    dataset = seqio.get_mixture_or_task("flan").get_dataset(None, "train", shuffle=False)
    store = open_stores([files / "store"])
    for j, row in enumerate(dataset.as_numpy_iterator()):
        sources = store.read("instructions", np.array([j]), "source")
        np.testing.assert_array_equal(row["inputs"][1:-2], sources.ids[0])
        assert row["targets"][-1] == 1


def test_vocabulary(seqio, files):
    import tensorflow as tf

    from openba_jax.seqio.vocabulary import OpenBAVocabulary

    path = str(files / "tokenizer.model")
    text = "12 <S>34<extra_id_3>"
    mine, native_one = OpenBAVocabulary(path), open_vocabulary(path)
    assert mine.vocab_size == native_one.token_count
    expected = native_one.encode(text, parse_special=True)
    assert native_one.s_id in expected
    assert mine.encode(text) == expected
    np.testing.assert_array_equal(mine.encode_tf(tf.constant(text)), expected)
    ids = [native_one.sentinel(0), *native_one.encode("12 34"), 1, 0, 0]
    assert mine.decode(ids) == "12 34"
    assert mine.decode_tf(tf.constant(ids)).numpy() == b"12 34"
    np.testing.assert_array_equal(mine.decode_tf(tf.constant([ids, ids])), [b"12 34"] * 2)
    assert mine == OpenBAVocabulary() == pickle.loads(pickle.dumps(mine)) == copy.deepcopy(mine)
    assert mine != OpenBAVocabulary(path, newline=True)
    assert mine != seqio.ByteVocabulary()


def test_missing_settings(seqio, files, monkeypatch):
    from openba_jax.seqio.settings import data_files

    monkeypatch.delenv("OPENBA_STORE", raising=False)
    monkeypatch.delenv("OPENBA_VOCABULARY", raising=False)
    with pytest.raises(UserError, match="OPENBA_STORE"):
        data_files(stores=()).require_stores()
    with pytest.raises(UserError, match="OPENBA_VOCABULARY"):
        data_files(vocabulary="").require_vocabulary()
    monkeypatch.setenv("OPENBA_STORE", "a,b")
    monkeypatch.setenv("OPENBA_VOCABULARY", "c.model")
    settings = data_files(stores=None, vocabulary="")
    assert (settings.stores, settings.vocabulary) == (("a", "b"), "c.model")


def write_cache(seqio, name, folder):
    """What seqio's cache tool writes for a task, without Beam."""
    import tensorflow as tf

    task = seqio.TaskRegistry.get(name)
    folder = folder / name
    folder.mkdir(parents=True)
    for split in task.splits:
        examples = task.preprocess_precache(task.source.get_dataset(split, shuffle=False))
        spec = examples.element_spec
        records = [seqio.dict_to_tfexample(example) for example in examples]
        for shard in range(2):
            path = folder / f"{split}.tfrecord-{shard:05}-of-00002"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in records[shard::2]:
                    writer.write(record.SerializeToString())
        features = {
            key: {"dtype": each.dtype.name, "shape": each.shape.as_list()}
            for key, each in spec.items()
        }
        info = {"num_shards": 2, "features": features, "seqio_version": seqio.__version__}
        (folder / f"info.{split}.json").write_text(json.dumps(info))
        (folder / f"stats.{split}.json").write_text(json.dumps({"examples": len(records)}))
    (folder / "COMPLETED").touch()


def assert_cached_examples_are_native(seqio, files, name):
    """Unsharded, two epochs of a cached task are those of the native runner; sharded, all comes."""
    size = (PAIRS if name == "flan" else GROUPS) - HELD_OUT
    cached = converted(seqio, name, "train", 2 * size, shuffle=True, seed=1, num_epochs=2, **CACHED)
    for epoch in range(2):
        rows = cached["encoder_input_tokens"][epoch * size : (epoch + 1) * size]
        expected = native(files, name, np.arange(size), epoch)["encoder_input_tokens"]
        np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
    shards = [
        converted(
            seqio, name, "train", 2, shuffle=False, shard_info=seqio.ShardInfo(i, 2), **CACHED
        )
        for i in range(2)
    ]
    first, second = (shard["encoder_input_tokens"] for shard in shards)
    assert (first != second).any(axis=1).all()


CACHED = {"use_cached": True}


@contextlib.contextmanager
def caches_of(seqio, name, folder):
    """Within it a task finds its cache there alone; tasks remember where they found one."""
    task = seqio.TaskRegistry.get(name)
    with (
        unittest.mock.patch.object(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(folder)]),
        unittest.mock.patch.object(task, "_cache_dir", None),
    ):
        yield


@pytest.mark.parametrize("name", ["ul2_x3", "flan"])
def test_cached_examples_are_the_native_ones(seqio, files, tmp_path, name):
    write_cache(seqio, name, tmp_path)
    with caches_of(seqio, name, tmp_path):
        assert_cached_examples_are_native(seqio, files, name)


def run_tool(files, module, *arguments):
    """One of seqio's programs, over the files of this module."""
    bindings = {
        "OPENBA_STORE": str(files / "store"),
        "OPENBA_VOCABULARY": str(files / "tokenizer.model"),
    }
    return subprocess.run(
        [sys.executable, "-m", f"seqio.scripts.{module}", "--module_import=tasks", *arguments],
        env={**os.environ, **bindings},
        cwd=REPOSITORY,
        input="\n" * 100,  # The inspection waits for a key between examples.
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_beam_job_prepares_a_corpus_offline(seqio, files, tmp_path):
    """seqio's cache tool, with Beam's local runner."""
    pytest.importorskip(
        "apache_beam",
        reason="apache-beam, of requirements/beam.txt, is absent",
    )
    result = run_tool(
        files,
        "cache_tasks_main",
        "--tasks=^o_ul2_mix$,^flan$",
        f"--output_cache_dir={tmp_path}",
        "--min_shards=2",
    )
    assert result.returncode == 0, result.stderr
    for name, count in (("o_ul2_mix", GROUPS), ("flan", PAIRS)):
        task = seqio.TaskRegistry.get(name)
        with caches_of(seqio, name, tmp_path):
            cached = task.get_dataset(LENGTHS, "train", use_cached=True, shuffle=False)
            rows = [tuple(row["inputs"].tolist()) for row in cached.as_numpy_iterator()]
        assert len(set(rows)) == len(rows) == count


def test_seqio_inspects_the_tasks(files):
    result = run_tool(
        files,
        "inspect_tasks_main",
        "--tasks=^ul2_s$",
        "--sequence_length={'inputs': 45, 'targets': 40}",
    )
    assert result.returncode == 0, result.stderr
    assert "inputs" in result.stdout + result.stderr


def test_rates_by_the_corpus(seqio, files):
    """Of a `_corpus` mixture, seven denoisers share what the stores hold of text."""
    mixture = seqio.get_mixture_or_task("ul2_corpus")
    task = seqio.TaskRegistry.get("ul2_s")
    assert mixture.get_rate(task) == pytest.approx((GROUPS - HELD_OUT) / 7)
    assert mixture.get_rate(seqio.TaskRegistry.get("flan")) == PAIRS - HELD_OUT
