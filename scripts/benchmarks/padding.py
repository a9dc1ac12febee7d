r"""Prints how much of a batch is no padding, for each text mixture at its own lengths.

python scripts/benchmarks/padding.py
python scripts/benchmarks/padding.py --stores=data/spans568 --long_stores=data/spans2048 \
  --vocabulary=data/tokenizer.model

Without stores it measures groups of random tokens of exactly 568 and 2048, as the original cuts
them. D-UL2 is measured at the rates it starts with.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from openba_jax.data.loader import BatchLoader
from openba_jax.data.store.token_store import store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.openba import OpenBAVocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.objectives import o_ul2, ul2
from openba_jax.objectives.mixture import get_mixture

_STORES = flags.DEFINE_list("stores", [], "Stores for UL2 and D-UL2; random ones by default.")
_LONG_STORES = flags.DEFINE_list("long_stores", [], "Stores for O-UL2.")
_VOCABULARY = flags.DEFINE_string("vocabulary", None, "The vocabulary of the stores.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Rows of a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches to measure.", lower_bound=1)

_SHORT = {"encoder_length": 570, "decoder_length": 381}
_LONG = {"encoder_length": 1040, "decoder_length": 1040}
_LENGTHS = {
    "span_corruption": {"encoder_length": 512, "decoder_length": 114},
    **dict.fromkeys(("ul2", "ul2_paper", "d_ul2_code", "d_ul2_paper"), _SHORT),
    **dict.fromkeys(("o_ul2_code", "o_ul2_paper"), _LONG),
}


def random_stores(folder: Path) -> tuple[Vocabulary, dict[int, list[Path]]]:
    """A small vocabulary, and a store for each group size."""
    rng = np.random.default_rng(0)
    words = [" ".join(map(str, rng.integers(0, 1000, 50))) for _ in range(200)]
    vocabulary = train_vocabulary(words, 300, folder / "tokenizer.model")
    stores = {}
    for size in (ul2.GROUP_SIZE, o_ul2.GROUP_SIZE):
        prefix = folder / str(size)
        with TokenStoreWriter(prefix, store_dtype(vocabulary.token_count)) as writer:
            writer.add_groups(rng.integers(3, vocabulary.piece_count, (2000, size)))
        stores[size] = [prefix]
    return vocabulary, stores


def main(argv: list[str]) -> None:
    """Measures every mixture."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        if _VOCABULARY.value:
            vocabulary = OpenBAVocabulary(_VOCABULARY.value)
            stores = {
                ul2.GROUP_SIZE: list(_STORES.value),
                o_ul2.GROUP_SIZE: list(_LONG_STORES.value),
            }
        else:
            vocabulary, stores = random_stores(Path(folder))
        print(f"{'':16} {'lengths':>10} {'encoder':>8} {'decoder':>8} {'loss':>8} {'both':>8}")
        for name, lengths in _LENGTHS.items():
            size = o_ul2.GROUP_SIZE if name.startswith("o_ul2") else ul2.GROUP_SIZE
            if not stores[size]:
                continue
            loader = BatchLoader(
                get_mixture(name), stores[size], vocabulary, _BATCH_SIZE.value, **lengths
            )
            real = np.zeros(3)
            for step in range(_BATCHES.value):
                batch = loader.batch(step)
                targets = batch["decoder_target_tokens"] > 0
                real += [
                    (batch["encoder_input_tokens"] > 0).mean(),
                    targets.mean(),
                    batch["decoder_loss_weights"].mean(),
                ]
            encoder, decoder, loss = real / _BATCHES.value
            widths = np.array(list(lengths.values()))
            both = (np.array([encoder, decoder]) * widths).sum() / widths.sum()
            shape = "/".join(map(str, widths))
            print(
                f"{name:16} {shape:>10} {encoder:8.1%} {decoder:8.1%} {loss:8.1%} {both:8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
