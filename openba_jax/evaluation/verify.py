"""Compares two checkpoints: tensor by tensor, and by the logits that they give."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint, load_tree
from openba_jax.checkpoints.files.tensors import SLICE_BYTES, count_not_finite, row_slices
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import generate
from openba_jax.inference.padding import pad_rows
from openba_jax.models.axes import VOCAB, Leaf
from openba_jax.models.base import Model, Params

CONTINUATION = 8
"""Tokens that are generated after a prompt and then scored by both models."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How one parameter differs.

    Attributes:
      path: its path, all layers together.
      largest: largest absolute difference; infinite where only one side has NaN or lacks it.
      where: the leaf in which it is.
      dtypes: the types on both sides.
      note: what else there is to say: only some rows were compared, values are not finite.
    """

    path: str
    largest: float
    where: str
    dtypes: tuple[str, str]
    note: str = ""


def compare(first: Checkpoint, second: Checkpoint) -> list[Difference]:
    """Largest absolute difference of every parameter; vocabularies may be padded differently.

    Raises:
      UserError: the models differ in a size other than that of the vocabulary.
    """
    a, b = first.model.axes, second.model.axes
    for key in dict.fromkeys([*a.sizes, *b.sizes]):
        if key != VOCAB and a.sizes.get(key) != b.sizes.get(key):
            raise UserError(
                f"the models differ: {key} is {a.sizes.get(key)} and {b.sizes.get(key)}."
            )
    rows = min(a.sizes[VOCAB], b.sizes[VOCAB])
    note = ""
    if a.sizes[VOCAB] != b.sizes[VOCAB]:
        note = f"the first {rows} of {a.sizes[VOCAB]} and {b.sizes[VOCAB]} rows"
    differences = []
    for path in dict.fromkeys([*a.paths, *b.paths]):
        if path not in a.paths or path not in b.paths:
            side = "first" if path in a.paths else "second"
            lone = Difference(path, np.inf, path, ("", ""), f"only in the {side}")
            differences.append(lone)
            continue
        largest, where, not_finite = -1.0, Leaf(path), 0
        for layer in a.layers(path):
            leaf = Leaf(path, layer)
            value, count = _leaf_difference(first, second, leaf, rows)
            not_finite += count
            if value > largest:
                largest, where = value, leaf
        dtypes = (first.dtype(where).name, second.dtype(where).name)
        notes = [note] if note and VOCAB in a.paths[path] else []
        if not_finite:
            notes.append(f"{not_finite} NaN or infinite values on both sides together")
        differences.append(Difference(path, largest, str(where), dtypes, ", ".join(notes)))
    return differences


def _leaf_difference(
    first: Checkpoint, second: Checkpoint, leaf: Leaf, rows: int
) -> tuple[float, int]:
    """Largest absolute difference, and how many values of both sides are not finite."""
    sizes = first.model.axes.sizes_at(leaf.path)
    if VOCAB not in sizes:
        return _slice_difference(first.read(leaf), second.read(leaf))
    widths = [size for name, size in sizes.items() if name != VOCAB]
    row_bytes = max(4 * int(np.prod(widths)), SLICE_BYTES // rows)
    found = [
        _slice_difference(first.read(leaf, part), second.read(leaf, part))
        for part in row_slices(rows, row_bytes)
    ]
    return max(value for value, _ in found), sum(count for _, count in found)


def _slice_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    return _difference(a, b), count_not_finite(a) + count_not_finite(b)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference; equal where both are the same infinity or both NaN."""
    wide = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
    a, b = a.astype(wide), b.astype(wide)
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
    odd = ~np.isfinite(distance)
    if odd.any():
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        distance[odd] = np.where(same[odd], 0.0, np.inf)
    return float(distance.max(initial=0.0))


def compare_logits(
    first: Checkpoint, second: Checkpoint, prompts: Sequence[Sequence[int]]
) -> list[float]:
    """Largest absolute difference of the logits for every prompt, both models in float32.

    The first model continues each prompt greedily; both score this continuation.

    Args:
      first: one model.
      second: the other.
      prompts: ids of inputs.
    """
    tokens = pad_rows(prompts, max(map(len, prompts)), first.model.padding)
    answers, logits = None, []
    for checkpoint in (first, second):
        model = checkpoint.model.replace(dtype="float32")
        params = jax.tree.map(jnp.asarray, load_tree(checkpoint))
        if answers is None:
            rng = jax.random.key(0)
            answers = generate(model, params, tokens, rng, max_new_tokens=CONTINUATION)
        logits.append(np.asarray(_logits(model, params, tokens, answers)))
        del params
    vocab = min(array.shape[-1] for array in logits)
    return [_difference(a, b) for a, b in zip(*(x[..., :vocab] for x in logits), strict=True)]


@functools.partial(jax.jit, static_argnames="model")
def _logits(model: Model, params: Params, tokens: jax.Array, answers: jax.Array) -> jax.Array:
    before = jnp.concatenate([model.first_tokens(tokens)[:, None], answers[:, :-1]], axis=1)
    encoded = model.encode(params, tokens, room=answers.shape[1])
    hidden = model.decode_hidden(params, encoded, tokens, jnp.maximum(before, 0))
    return model.head(params).logits(hidden)


def encode_prompt(prompt: str, checkpoint: Checkpoint) -> list[int]:
    """Ids of a prompt: text, or ids like `12,5,7`.

    Raises:
      UserError: the prompt is text and the checkpoint has no tokenizer, it has no token, or an id
        is out of range.
    """
    pieces = prompt.split(",")
    if all(piece.strip().isdecimal() for piece in pieces):
        ids = [int(piece) for piece in pieces]
    elif checkpoint.tokenizer is None:
        raise UserError("the checkpoints have no tokenizer; give prompts as ids, like 12,5,7.")
    else:
        vocabulary = open_vocabulary(checkpoint.tokenizer)
        ids = vocabulary.encode(prompt, parse_special=True)
        ids += [vocabulary.eos_id] if checkpoint.model.layout == "encoder_decoder" else []
    if not ids:
        raise UserError(f"the prompt {prompt!r} has no token; give one that has.")
    rows = checkpoint.model.config.vocab_size
    if max(ids) >= rows:
        raise UserError(f"the prompt has id {max(ids)}, and the model has {rows} ids.")
    return ids
