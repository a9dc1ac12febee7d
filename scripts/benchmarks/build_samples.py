"""Measures how many samples a second one core builds, beside two builders of other projects.

python scripts/benchmarks/build_samples.py

Ours reads the token store and gives padded arrays. The original's builder, which is rebuilt here
from its description (docs/original.md#span-corruption, #sequence-denoising, #objectives), goes
example by example, with its three dense attention masks and without. T5's `span_corruption` is
rebuilt with the same tf.data operations, on one thread. Per core means per second of the process's
CPU time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from openba_jax.data.loader import BatchLoader
from openba_jax.data.store.token_store import store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.objectives import original_noise
from openba_jax.objectives.mixture import get_mixture
from openba_jax.objectives.special_ids import SpecialIds
from openba_jax.objectives.ul2 import DENOISERS, GROUP_SIZE

ENCODER, DECODER = 570, 381

_MIXTURE = flags.DEFINE_string("mixture", "ul2", "Which mixture of denoisers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Rows of a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 100, "Batches to measure.", lower_bound=1)
_GROUPS = flags.DEFINE_integer("groups", 20_000, "Groups in the store.", lower_bound=1)


Rate = tuple[float, float, int]


def timed(build: Callable[[], int]) -> Rate:
    """Samples per second, per second of CPU time, and how many, of a function that builds some."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = build()
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu), count


def original(groups: np.ndarray, ids: SpecialIds, dense_masks: bool) -> int:
    """The original's way: one numpy generator, many small arrays and lists for each example."""
    denoisers = list(DENOISERS.values())
    for number, tokens in enumerate(groups):
        rng = np.random.default_rng(number)
        denoiser = denoisers[original_noise.choose(rng, len(denoisers))]
        if denoiser.mean_span is None:
            rng = np.random.default_rng(number)
        mask = original_noise.mask(denoiser, len(tokens), rng)
        sides = []
        for keep, prefix in ((~mask, [denoiser.prefix_id(ids)]), (mask, [])):
            starts = ~keep & np.concatenate([[True], keep[:-1]])
            sentinels = ids.sentinel(0) + 1 - np.cumsum(starts)
            spliced = np.where(starts, sentinels, tokens)[keep | starts]
            sides.append(np.array([*prefix, *spliced.tolist(), ids.eos_id], np.int64))
        encoder, labels = sides
        decoder = np.concatenate([[0], labels[:-1]])
        encoder = np.pad(encoder, (0, ENCODER - len(encoder)))
        loss_mask = np.pad(np.ones(len(decoder), np.int64), (0, DECODER - len(decoder)))
        labels = np.pad(labels, (0, DECODER - len(labels)), constant_values=-1)
        decoder = np.pad(decoder, (0, DECODER - len(decoder)))
        if dense_masks:
            encoder_real, decoder_real = encoder >= 1, decoder >= 1
            decoder_real[0] = True
            causal = np.arange(DECODER)[None] <= np.arange(DECODER)[:, None]
            _ = (
                (encoder_real[:, None] * encoder_real[None]).astype(np.int64),
                (decoder_real[:, None] * encoder_real[None]).astype(np.int64),
                (decoder_real[:, None] * decoder_real[None]).astype(np.int64) * causal,
            )
        assert loss_mask.any()
    return len(groups)


def t5_span_corruption(groups: np.ndarray, sentinel: int, count: int) -> int:
    """T5's objective: density 0.15, mean span 3; random segments, sentinels by ragged selection."""
    import tensorflow as tf

    length = groups.shape[1]
    noise = round(length * 0.15)
    spans = max(round(noise / 3), 1)

    def segments(total: int, seed: tf.Tensor) -> tf.Tensor:
        first = tf.random.experimental.stateless_shuffle(
            tf.cast(tf.range(total - 1) < spans - 1, tf.int32), seed
        )
        return tf.math.segment_sum(tf.ones(total, tf.int32), tf.cumsum(tf.pad(first, [[1, 0]])))

    def replace(tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        before = tf.pad(mask[:-1], [[1, 0]])
        first, later = mask & ~before, mask & before
        ids = sentinel + 1 - tf.cumsum(tf.cast(first, tokens.dtype))
        return tf.boolean_mask(tf.where(first, ids, tokens), ~later)

    def corrupt(number: tf.Tensor, tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        seed = tf.stack([number, number])
        parts = [segments(length - noise, seed), segments(noise, seed + 1)]
        starts = tf.cumsum(tf.reshape(tf.stack(parts, axis=1), [2 * spans]))[:-1]
        turns = tf.math.unsorted_segment_sum(tf.ones_like(starts), starts, length)
        mask = tf.cumsum(turns) % 2 == 1
        return {
            name: tf.pad(tf.concat([replace(tokens, noised), [1]], 0), [[0, width]])[:width]
            for name, noised, width in (("inputs", mask, 512), ("targets", ~mask, 114))
        }

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    dataset = tf.data.Dataset.from_tensor_slices(groups.astype(np.int32)).repeat()
    dataset = dataset.enumerate().map(corrupt).batch(128).with_options(options)
    steps = count // 128
    for batch in dataset.take(steps):
        assert batch["inputs"].shape == (128, 512)
    return steps * 128


def ours(loader: BatchLoader, batches: int) -> int:
    """This project's loader."""
    for step in range(1, 1 + batches):
        loader.batch(step)
    return batches * loader.batch_size


def main(argv: list[str]) -> None:
    """Measures all of them."""
    del argv
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        words = [" ".join(map(str, rng.integers(0, 1000, 50))) for _ in range(200)]
        vocabulary = train_vocabulary(words, 300, Path(folder) / "tokenizer.model")
        with TokenStoreWriter(
            Path(folder) / "store", store_dtype(vocabulary.token_count)
        ) as writer:
            size = (_GROUPS.value, GROUP_SIZE)
            writer.add_groups(rng.integers(3, vocabulary.piece_count, size))
        groups = rng.integers(3, vocabulary.piece_count, (2000, GROUP_SIZE))

        def loader(name: str, encoder: int, decoder: int) -> BatchLoader:
            stores = [Path(folder) / "store"]
            made = BatchLoader(
                get_mixture(name), stores, vocabulary, _BATCH_SIZE.value, encoder, decoder
            )
            made.batch(0)
            return made

        count = _BATCHES.value * _BATCH_SIZE.value
        mixed = loader(_MIXTURE.value, ENCODER, DECODER)
        plain = loader("span_corruption", 512, 114)
        original(groups[:10], vocabulary, True)
        sentinel = vocabulary.sentinel(0)
        t5_span_corruption(groups, sentinel, 128)
        builders: dict[str, Callable[[], int]] = {
            f"ours, {_MIXTURE.value}": lambda: ours(mixed, _BATCHES.value),
            "original, dense masks": lambda: original(groups[:500], vocabulary, True),
            "original, no masks": lambda: original(groups, vocabulary, False),
            "ours, span_corruption": lambda: ours(plain, _BATCHES.value),
            "T5 span_corruption": lambda: t5_span_corruption(groups, sentinel, count),
        }
        for name, build in builders.items():
            wall, cpu, built = timed(build)
            print(
                f"{name:24} {wall:8,.0f} samples/s {cpu:8,.0f} per core ({built} samples)",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
