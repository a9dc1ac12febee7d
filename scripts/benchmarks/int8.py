"""What it costs in quality to answer from eight bits: loss, likeliest tokens, memory.

python scripts/benchmarks/int8.py

Targets of UL2 are predicted token by token with the cache, the true ones being given, on documents
of `examples.facts`. The model is the one that comes with the repository, or any checkpoint of an
encoder-decoder that knows such text (`--model`).
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from examples import facts
from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.data.loader import BatchLoader
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.inference.int8 import PARTS, with_int8
from openba_jax.inference.loading import PlacedModel
from openba_jax.models.base import DecodingState, Model, Params
from openba_jax.nn.losses import cross_entropy
from openba_jax.objectives.mixture import get_mixture
from openba_jax.parallel.sharding import make_mesh

KNOWN = (
    *("element_symbols", "units", "planet_order", "animal_classes", "capitals", "currencies"),
    *("roman_numerals", "translations", "opposites", "authors"),
)
"""What the model of the repository knows (`scripts/train_ancestor.py`)."""


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model: Model, params: Params, inputs: jax.Array, answers: jax.Array) -> jax.Array:
    """Float32 `[batch, length, vocab]`: what is thought of each token before it is given."""
    cache, fixed = model.start_decoding(params, inputs, answers.shape[1])
    first = model.first_tokens(inputs)
    given = jnp.concatenate([first[:, None], answers[:, :-1]], axis=1)

    def step(cache: dict, tokens: jax.Array) -> tuple[dict, jax.Array]:
        state = DecodingState(cache, fixed)
        logits, cache = model.decode_step(params, state, inputs, tokens[:, None])
        return cache, logits[:, 0]

    return jnp.moveaxis(jax.lax.scan(step, cache, given.T)[1], 0, 1)


def megabytes(tree: object) -> float:
    """What the arrays of a tree take."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6


def samples(model: Model, vocabulary: Vocabulary, count: int) -> Mapping[str, np.ndarray]:
    """Rows of UL2 on documents whose wording no model here was trained on."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "facts"
        facts.write(folder, seed=7, relations=KNOWN, facts_per_relation=6, documents=4 * count)
        sources = [TextSource("facts", [folder / "corpus.jsonl"])]
        encoder_length, decoder_length = model.config.lengths
        # Inputs have their mode in front, marks of spans, and an end.
        prepare(sources, TextGroups(encoder_length - 6), vocabulary, folder / "text")
        loader = BatchLoader(
            get_mixture("ul2"),
            [folder / "text"],
            vocabulary,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
            batch_size=count,
        )
        return loader.batch(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("examples/ancestor"))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=200)
    options = parser.parse_args()
    checkpoint = open_checkpoint(options.model)
    vocabulary = open_vocabulary(checkpoint.tokenizer)
    whole = load_tree(checkpoint)
    mesh = make_mesh()

    def placed(dtype: str, parts: tuple[str, ...]) -> PlacedModel:
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), whole)
        model = checkpoint.model.replace(dtype=dtype, param_dtype=dtype, scan_layers=True)
        return with_int8(PlacedModel(model, params, vocabulary, mesh), parts)

    variants = {
        "float32": ("float32", ()),
        "bfloat16": ("bfloat16", ()),
        "bfloat16, cache in int8": ("bfloat16", PARTS[1:]),
        "bfloat16, weights in int8": ("bfloat16", PARTS[:1]),
        "bfloat16, both": ("bfloat16", PARTS),
    }
    batch = samples(checkpoint.model, vocabulary, options.rows)
    inputs, answers = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    real = batch["decoder_loss_weights"] > 0
    print(
        f"{options.model}, {len(inputs)} rows, {real.sum()} targets\n"
        "| | MB of weights | MB of cache a row | loss | perplexity | same likeliest token |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    likeliest: np.ndarray | None = None
    for name, (dtype, parts) in variants.items():
        model, params, _, _ = placed(dtype, parts)
        total, chosen = 0.0, []
        for start in range(0, len(inputs), options.batch_size):
            rows = slice(start, start + options.batch_size)
            logits = logits_of(model, params, inputs[rows], answers[rows])
            total += float(jnp.sum(cross_entropy(logits, answers[rows]) * real[rows]))
            chosen.append(np.asarray(jnp.argmax(logits, axis=-1)))
        now = np.concatenate(chosen)
        likeliest = now if likeliest is None else likeliest
        loss, same = total / real.sum(), (now == likeliest)[real].mean()
        state = jax.eval_shape(
            functools.partial(model.start_decoding, length=answers.shape[1]), params, inputs[:1]
        )
        print(
            f"| {name} | {megabytes(params):.2f} | {megabytes(state):.4f} | {loss:.4f} | "
            f"{math.exp(loss):.4f} | {same:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
