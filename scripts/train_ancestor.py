r"""Trains the small ancestor that the quickstart and the studies start from, and exports it.

    python scripts/train_ancestor.py --output_dir=runs/ancestor

Some 40 minutes on two CPU cores. The model (651k parameters, Chinese and English facts) first
learns from 12,000 documents, many times over, and is then annealed on 200,000 others, each of
which it sees at most once, so that it is worth as much on held-out text as on its own: the losses
of both, and what the last fifth of the steps still brought, are printed at the end. `export/` is
the folder `examples/ancestor` of this repository, up to the order in which another machine adds
up: bfloat16, Hugging Face's format, 1.4 MB.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags

from examples.facts import writing
from openba_jax.checkpoints import model_folder
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.models.registry import model_of, named_config
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.settings import Data
from openba_jax.training import optimizer, trainer
from openba_jax.training.records import metrics

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write; resumed.", required=True)

RELATIONS = (
    "element_symbols",
    "units",
    "planet_order",
    "animal_classes",
    "capitals",
    "currencies",
    "roman_numerals",
    "translations",
    "opposites",
    "authors",
)
MIXTURE = "ul2_flan"
PRETRAIN_STEPS, ANNEAL_STEPS = 8_312, 4_000


def _text(folder: Path, seed: int, documents: int, instructions: int) -> Data:
    """Writes facts, unless they are there, and says how they are read."""
    if not folder.exists():
        writing.write(
            folder,
            seed=seed,
            relations=RELATIONS,
            facts_per_relation=6,
            documents=documents,
            instructions=instructions,
            choice_share=0,
        )
    return Data(
        corpus=str(folder / "corpus.jsonl"),
        instructions=str(folder / "instructions.jsonl"),
        questions=str(folder / "questions"),
        vocabulary_size=896,
        group_size=28,
        encoder_length=34,
        decoder_length=20,
        batch_size=64,
        held_out=512,
        eval_batches=8,
    )


def main(argv: Sequence[str]) -> None:
    """Trains, anneals, exports."""
    del argv
    root = Path(_OUTPUT_DIR.value)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    data = _text(root / "facts", 0, 12_000, 6_000)
    corpora = Corpora(root / "data", data, 0)
    vocabulary = corpora.train_tokenizer()
    config = named_config(
        "small",
        vocab_size=vocabulary.size,
        initializer_std=0.04,
        embed_dim=64,
        num_heads=4,
        head_dim=16,
        mlp_dim=192,
        encoder_layers=3,
        decoder_layers=6,
    ).with_lengths(data.encoder_length, data.decoder_length)
    trainer.train(
        model_dir=str(root / "pretrain"),
        model=model_of(config),
        batches=corpora.batches(vocabulary, MIXTURE),
        # The annealing takes over before this cosine ends.
        optimizer=optimizer.adamw(
            optimizer.warmup_cosine(5e-3, 5e-5, 200, 10_000), weight_decay=0.1
        ),
        train_steps=PRETRAIN_STEPS,
        eval_every=500,
        tokenizer=str(vocabulary.path),
        eval_batches=data.eval_batches,
        log_every=100,
        max_to_keep=1,
    )
    fresh = Corpora(root / "fresh_data", _text(root / "fresh_facts", 1, 200_000, 60_000), 0)
    fresh.adopt_tokenizer(Path(vocabulary.path))
    trainer.train(
        model_dir=str(root / "ancestor"),
        model=model_folder.load_model(root / "pretrain"),
        batches=fresh.batches(open_vocabulary(fresh.tokenizer), MIXTURE),
        optimizer=optimizer.adamw(
            optimizer.warmup_cosine(1.5e-3, 1e-5, 100, ANNEAL_STEPS * 4 // 5), weight_decay=0.1
        ),
        train_steps=ANNEAL_STEPS,
        initial_model=str(root / "pretrain"),
        eval_every=200,
        tokenizer=str(vocabulary.path),
        eval_batches=data.eval_batches,
        log_every=100,
        max_to_keep=1,
    )
    records = [dict(r) for r in metrics.read(root / "ancestor" / metrics.METRICS)]
    held_out = {r["step"]: r["loss"] for r in records if r["split"] == "eval"}
    own = [r["loss"] for r in records if r["split"] == "train"][-5:]
    before, last = held_out[ANNEAL_STEPS * 4 // 5], held_out[ANNEAL_STEPS]
    sys.stdout.write(
        f"held-out loss {last:.4f}; the last fifth of the annealing brought {1 - last / before:.2%}"
        f"; on its own text {sum(own) / len(own):.4f} over the last 500 steps\n"
    )
    if not (root / "export").exists():
        command = ["-m", "openba_jax.convert", "to_huggingface"]
        options = [
            "--dtype=bfloat16",
            "--ffn_rule=v2",
            f"--input={root / 'ancestor'}",
            f"--output={root / 'export'}",
        ]
        subprocess.run([sys.executable, *command, *options], check=True)


if __name__ == "__main__":
    app.run(main)
