"""What is no model folder, or holds no usable model, is refused with what would help."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import generate
from openba_jax.inference.loading import load, unrolled

MESH = (1, 1, 1)


@pytest.fixture(scope="module")
def folder(loaded, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    training_state.create(folder, *loaded, tokenizer=vocabulary.path, step=3)
    return folder


def test_a_model_folder_and_a_checkpoint_in_it(folder: Path, loaded, vocabulary) -> None:
    for path in (folder, folder / "checkpoints/3"):
        placed = load(path, MESH)
        assert placed.model == loaded[0]
        assert placed.vocabulary.fingerprint == vocabulary.fingerprint
        jax.tree.map(np.testing.assert_array_equal, placed.params, loaded[1])


def test_layers_apart_give_the_same_answers_and_leave_no_stack_behind(folder: Path) -> None:
    placed = load(folder, MESH)
    inputs = jnp.asarray([[5, 6, 7, 1], [9, 8, 1, 0]], jnp.int32)
    ask = functools.partial(generate, inputs=inputs, rng=jax.random.key(0), max_new_tokens=5)
    before, stacks = ask(placed.model, placed.params), jax.tree.leaves(placed.params)
    apart = unrolled(placed)
    assert not apart.model.config.scan_layers
    np.testing.assert_array_equal(ask(apart.model, apart.params), before)
    kept = {id(leaf) for leaf in jax.tree.leaves(apart.params)}
    assert all(leaf.is_deleted() or id(leaf) in kept for leaf in stacks)
    assert unrolled(apart) is apart


@pytest.mark.parametrize(
    ("writer", "kind"),
    [
        (HuggingFace(), "Hugging Face folder"),
        (Megatron(1), "Megatron folder"),
        (T5X(), "T5X folder"),
    ],
)
def test_other_formats_are_named_with_the_command_that_converts_them(
    folder: Path, tmp_path: Path, writer, kind: str
) -> None:
    writer.write(open_checkpoint(folder), tmp_path)
    with pytest.raises(UserError, match=f"is a {kind}.*openba-convert to_native --input="):
        load(tmp_path, MESH)


def test_what_is_no_checkpoint_at_all(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        load(tmp_path / "nowhere", MESH)
    with pytest.raises(UserError, match="is no checkpoint that is known"):
        load(tmp_path, MESH)
    with pytest.raises(UserError, match="has no checkpoint of step 7; it has 3"):
        load(folder / "checkpoints/7", MESH)
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer; put tokenizer\.model"):
        load(tmp_path / "model", MESH)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite_are_named(
    loaded, vocabulary: Vocabulary, tmp_path: Path, value: float
) -> None:
    model, params = loaded
    bad = jax.tree.map(lambda x: x, params)
    embedding = bad["token_embedder"]["embedding"]
    bad["token_embedder"]["embedding"] = jnp.asarray(embedding).at[5, :2].set(value)
    training_state.create(tmp_path / "model", model, bad, tokenizer=vocabulary.path)
    with pytest.raises(UserError, match=r"token_embedder/embedding of .* holds NaN or"):
        load(tmp_path / "model", MESH)
