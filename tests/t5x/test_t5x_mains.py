"""The whole way in T5X's own binaries: train, prune, recover, infer, evaluate, export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import seqio

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import t5x_toy

from openba_jax.checkpoints.checkpoint import load_state, load_tree
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.data.store.token_store import store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.inference.decoding import generate
from openba_jax.inference.generator import Generator
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage
from openba_jax.seqio.vocabulary import OpenBAVocabulary
from openba_jax.t5x.prompts import prompts_task

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LENGTHS = {"inputs": 45, "targets": 40}
PROMPTS = ["1 2 3", "144 12 7 8"]


def run(binary, *files, cwd=REPOSITORY, **macros):
    arguments = [f"--gin_file=gin/{file}.gin" for file in files]
    arguments += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    done = subprocess.run(
        [sys.executable, "-m", f"t5x.{binary}", f"--gin_search_paths={REPOSITORY}", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts = [f"{i} {i * i} {i**3}" for i in range(200)]
    vocabulary = train_vocabulary(texts, 280, folder / "tokenizer.model")
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder / "store", store_dtype(vocabulary.token_count)) as writer:
        writer.add_groups(rng.integers(3, vocabulary.piece_count, (40, 40)))
    return {
        "TOKEN_STORES": [str(folder / "store")],
        "VOCABULARY": str(vocabulary.path),
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "BATCH_SIZE": 8,
        "DROPOUT_RATE": 0.0,
    }


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A T5X folder after four steps, trained in two goes."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    files = ["models/tiny", "runs/t5x/pretrain"]
    # A path as users type it: not absolute, which orbax asks for.
    common = {"MODEL_DIR": folder.name, "named_config.initializer_std": 0.3, **data}
    run("train", *files, **common, TRAIN_STEPS=2, cwd=folder.parent)
    run("train", *files, **common, TRAIN_STEPS=4, HELD_OUT=8, EVAL_STEPS=1, cwd=folder.parent)
    assert (folder / "checkpoint_4").is_dir()
    return folder


def test_prune_recover_infer(data, trained, tmp_path):
    pruned, recovered, answers = tmp_path / "pruned", tmp_path / "recovered", tmp_path / "answers"
    run(
        "train",
        "runs/t5x/prune_and_recover",
        SOURCE_PATH=str(trained),
        PRUNED_PATH=str(pruned),
        MODEL_DIR=str(recovered),
        TRAIN_STEPS=2,
        **{"Stage.drop_decoder": [1], "Stage.mlp": 48, **data},
    )
    # The cut is that of the native road.
    native, stage = tmp_path / "native", Stage("pruned", drop_decoder=[1], mlp=48)
    plan = prune_checkpoint(trained, native, stage, output_format="native")
    params = t5x_toy.read(pruned)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, t5x_toy.read(native)["params"])
    cut, whole = open_checkpoint(pruned), open_checkpoint(recovered)
    assert json.loads(cut.plan) == plan.to_dict() == json.loads(whole.plan)
    assert (cut.model.config.decoder_layers, cut.model.config.mlp_dim) == (2, 48)
    assert whole.model == cut.model

    run(
        "infer",
        "runs/t5x/infer",
        MODEL_DIR=str(recovered),
        PROMPTS=PROMPTS,
        OUTPUT_DIR=str(answers),
        MAX_ENCODER_LENGTH=32,
        MAX_NEW_TOKENS=8,
        BATCH_SIZE=2,
    )
    (file,) = answers.glob("*-00000-of-00001")
    predictions = [json.loads(line)["prediction"] for line in file.read_text().splitlines()]
    vocabulary = open_vocabulary(whole.tokenizer)
    generator = Generator(whole.model, load_tree(whole), vocabulary, 32, 2)
    native_answers = generator(PROMPTS, max_new_tokens=8)
    assert any(native_answers)
    assert [text.strip() for text in predictions] == native_answers


def test_a_decoder_learns_what_it_learns_natively(tmp_path):
    tokenizer = REPOSITORY / "tests/golden/tokenizers/llama3/tokenizer.json"
    vocabulary = open_vocabulary(tokenizer)
    rng = np.random.default_rng(0)
    with TokenStoreWriter(tmp_path / "store", store_dtype(vocabulary.token_count)) as writer:
        writer.add_groups(rng.integers(0, vocabulary.piece_count, (40, 24)))
    macros = {
        "TOKEN_STORES": [str(tmp_path / "store")],
        "VOCABULARY": str(tokenizer),
        "MIXTURE_OR_TASK_NAME": "causal_lm",
        "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 12},
        "BATCH_SIZE": 8,
        "DROPOUT_RATE": 0.0,
        "TRAIN_STEPS": 2,
    }
    rows = -(-vocabulary.token_count // 32) * 32
    first, tuned, native = tmp_path / "first", tmp_path / "tuned", tmp_path / "native"
    run(
        "train",
        "models/tiny_llama",
        "runs/t5x/pretrain_decoder",
        MODEL_DIR=str(first),
        **{**macros, "named_config.vocab_size": rows, "HELD_OUT": 8, "EVAL_STEPS": 1},
    )
    assert open_checkpoint(first).tokenizer.name == "tokenizer.json"
    start = tmp_path / "start"
    t5x_toy.move(first, start, "native")
    macros |= {"warmup_constant.peak": 1e-2, "warmup_constant.warmup_steps": 1}
    run(
        "train",
        "runs/t5x/finetune_decoder",
        MODEL_DIR=str(tuned),
        INITIAL_CHECKPOINT_PATH=str(first),
        **macros,
    )
    macros |= {"MODEL_DIR": str(native), "INITIAL_CHECKPOINT_PATH": str(start)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openba_jax.train", "--gin_file=gin/runs/native/finetune.gin"),
            *(f"--gin.{name}={value!r}" for name, value in macros.items()),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, found, expected = (t5x_toy.read(folder)["params"] for folder in (first, tuned, native))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), found, before)
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_other_prompts_are_another_task(data):
    # T5X does not infer again what its folder has of a task.
    vocabulary = OpenBAVocabulary(data["VOCABULARY"])
    names = [prompts_task(vocabulary, prompts) for prompts in (PROMPTS, PROMPTS[:1], PROMPTS)]
    assert names[0] == names[2] != names[1]


def test_prompts_of_t5_end_as_t5_reads_them(data, tmp_path):
    path = save_tokenizer(tmp_path, data["VOCABULARY"], "spiece.model")
    write_settings(path, TokenizerSettings(kind="t5"))
    vocabulary = OpenBAVocabulary(str(path))
    (row,) = seqio.get_mixture_or_task(prompts_task(vocabulary, ["who"])).get_dataset(
        None, "test", shuffle=False
    )
    assert row["inputs"].numpy().tolist() == [*vocabulary.vocabulary.encode("who"), 1]


def test_evaluate(data, trained, tmp_path):
    log = run(
        "eval",
        "runs/t5x/eval",
        MODEL_DIR=str(trained),
        MIXTURE_OR_TASK_NAME="ul2_r3",
        HELD_OUT=8,
        EVAL_STEPS=1,
        OUTPUT_DIR=str(tmp_path),
        **{name: data[name] for name in ("TOKEN_STORES", "TASK_FEATURE_LENGTHS", "BATCH_SIZE")},
    )
    assert "collection=training_eval/ul2_r3" in log
    lines = (tmp_path / "inference_eval/ul2_r3-metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["log_likelihood"] < 0


def test_export(trained, tmp_path):
    pytest.importorskip("tensorflow_serving", reason="t5x.export needs tensorflow-serving-api")
    import tensorflow as tf

    run(
        "export",
        "runs/t5x/export",
        MODEL_DIR=str(trained),
        OUTPUT_DIR=str(tmp_path / "exported/1"),
        TASK_FEATURE_LENGTHS={"inputs": 12, "targets": 8},
        BATCH_SIZE=2,
    )
    (saved,) = tmp_path.glob("exported_cpu/1")
    inputs = np.random.default_rng(0).integers(3, 250, (2, 12), dtype=np.int32)
    outputs = tf.saved_model.load(str(saved)).signatures["serving_default"](tf.constant(inputs))
    whole = open_checkpoint(trained)
    expected = generate(
        whole.model, load_tree(whole), inputs, jax.random.PRNGKey(0), max_new_tokens=8
    )
    found = [array.numpy() for array in outputs.values() if array.dtype == tf.int32]
    assert any(np.array_equal(array.reshape(2, 8), expected) for array in found)


def test_d_ul2_moves_its_rates(data, tmp_path):
    files = ["models/tiny", "runs/t5x/pretrain", "runs/t5x/native_batches"]
    common = {
        "MODEL_DIR": str(tmp_path / "run"),
        "MIXTURE_OR_TASK_NAME": "d_ul2",
        "HELD_OUT": 8,
        "EVAL_STEPS": 1,
        "EVAL_PERIOD": 2,
        "CHECKPOINT_PERIOD": 2,
        **data,
    }
    run("train", *files, **common, TRAIN_STEPS=2)
    run("train", *files, **common, TRAIN_STEPS=4)
    rates = [
        json.loads((tmp_path / f"run/rates/{step}.json").read_text())["rate/ul2_s"]
        for step in (2, 4)
    ]
    assert rates[0] != rates[1]


def test_converted_folders_open(trained, tmp_path):
    t5x_toy.move(trained, tmp_path / "copy", "t5x")
    copy, first = open_checkpoint(tmp_path / "copy"), open_checkpoint(trained)
    assert (copy.model, copy.step) == (first.model, 4)
    jax.tree.map(np.testing.assert_array_equal, load_state(copy), load_state(first))
