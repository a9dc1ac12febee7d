"""A run of seconds, as a function for tests and as a program for tests that need a process."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ToyBatches:
    """Random rows whose targets repeat their inputs, of uneven lengths: functions of the step."""

    batch_size: int = 8
    encoder_length: int = 8
    decoder_length: int = 6
    vocab: int = 32
    repeats: int = 4  # After so many steps the batches come again.

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        return self._make(step % self.repeats, rows)

    def evaluation_batches(
        self, count: int, *, rows: slice | None = None
    ) -> list[dict[str, np.ndarray]]:
        return [self._make(1000 + number, rows) for number in range(count)]

    def identity(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(ToyBatches)}

    def _make(self, number: int, rows: slice | None) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(number)
        shape = (self.batch_size, self.encoder_length)
        inputs = rng.integers(3, self.vocab, shape, dtype=np.int32)
        lengths = rng.integers(1, self.decoder_length + 1, (self.batch_size, 1))
        targets = inputs[:, : self.decoder_length]
        targets = np.where(np.arange(self.decoder_length) < lengths, targets, 0)
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }
        return {name: array[rows or slice(None)] for name, array in batch.items()}


def toy_config(**changes: Any) -> Any:
    from openba_jax.models.openba.config import OpenBAConfig

    fields = {
        "vocab_size": 32,
        "embed_dim": 16,
        "num_heads": 4,
        "head_dim": 4,
        "mlp_dim": 24,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "dropout_rate": 0.1,  # What is resumed must resume this, too.
    }
    return OpenBAConfig(**{**fields, **changes})


def toy_model(**changes: Any) -> Any:
    from openba_jax.models.registry import model_of

    return model_of(toy_config(**changes))


@functools.cache
def toy_optimizer() -> Any:
    """One object, so that the programs made with it are compiled once per process."""
    from openba_jax.training import optimizer

    return optimizer.adamw(optimizer.warmup_cosine(1e-2, 1e-3, 2, 40))


def toy_train(folder: str | Path, **changes: Any) -> Any:
    """`trainer.train` with everything toy-sized; returns its result."""
    from openba_jax.training import trainer

    arguments: dict[str, Any] = {
        "model_dir": str(folder),
        "model": toy_model(),
        "batches": ToyBatches(),
        "optimizer": toy_optimizer(),
        "train_steps": 12,
        "eval_batches": 2,
        "eval_every": 6,
        "log_every": 3,
        "checkpoint_every": 4,
        "progress": False,
    }
    return trainer.train(**{**arguments, **changes})


def folder_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder; empty folders are there, too."""
    from openba_jax.files import sha256

    return {
        path.relative_to(folder).as_posix(): sha256(path) if path.is_file() else ""
        for path in sorted(Path(folder).rglob("*"))
    }


def saved_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """All arrays of the newest checkpoint, and the JSON that was saved with them."""
    from openba_jax.checkpoints.checkpoint import load_state
    from openba_jax.checkpoints.registry import open_checkpoint

    opened = open_checkpoint(folder)
    return load_state(opened), dict(opened.data)


def write_toy_store(folder: Path) -> None:
    """`tokenizer.model` and a token store `spans` of 40 random groups of 24 tokens."""
    from openba_jax.data.store.token_store import store_dtype
    from openba_jax.data.store.writer import TokenStoreWriter
    from openba_jax.data.vocabulary_training import train_vocabulary

    texts = [f"{i} {i * i} {i**3}" for i in range(200)]
    vocabulary = train_vocabulary(texts, 280, folder / "tokenizer.model")
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder / "spans", store_dtype(vocabulary.token_count)) as writer:
        writer.add_groups(rng.integers(3, 40, (40, 24)))


def d_ul2_batches(text: Path, mixture: str = "d_ul2_code") -> Any:
    """A loader over `write_toy_store`, which dies like `DyingBatches` where it is told to."""
    from openba_jax.data.loader import BatchLoader
    from openba_jax.data.vocabularies.openba import OpenBAVocabulary
    from openba_jax.objectives.mixture import get_mixture

    class Loader(BatchLoader):
        def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
            if step == int(os.environ.get("TOY_DIES_AT", -1)):
                os.kill(os.getpid(), 9)
            return super().batch(step, rows)

    vocabulary = OpenBAVocabulary(text / "tokenizer.model")
    return Loader(get_mixture(mixture), [text / "spans"], vocabulary, 8, 28, 20, held_out=8)


def d_ul2_train(folder: str | Path, text: Path, **changes: Any) -> Any:
    """`toy_train` with D-UL2 on the toy store."""
    from openba_jax.objectives.mixture import get_mixture
    from openba_jax.training.adaptation import Adaptation

    arguments: dict[str, Any] = {
        "model": toy_model(vocab_size=384),
        "adaptation": Adaptation(get_mixture("d_ul2_code")),
        "eval_batches": 1,
        "eval_every": 4,
        "checkpoint_every": 3,
    }
    return toy_train(folder, **{**arguments, **changes})


class DyingBatches(ToyBatches):
    """Kills its own process, as the system would, when it is asked for a certain step."""

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        if step == int(os.environ["TOY_DIES_AT"]):
            os.kill(os.getpid(), 9)
        return super().batch(step, rows)


class SlowBatches(ToyBatches):
    """Takes its time for every batch."""

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        time.sleep(float(os.environ["TOY_SLEEPS"]))
        return super().batch(step, rows)


if __name__ == "__main__":
    # toy_run.py FOLDER JSON: trains, with the arguments of the JSON; several meshes one by one.
    options = json.loads(sys.argv[2])
    coordinator = options.pop("coordinator", None)
    if coordinator:
        import jax

        jax.distributed.initialize(
            coordinator,
            options.pop("count"),
            options.pop("index"),
            heartbeat_timeout_seconds=options.pop("heartbeat", 100),
        )
    if "config" in options:
        options["model"] = toy_model(**options.pop("config"))
    if "TOY_D_UL2" in os.environ:
        toy_text = Path(os.environ["TOY_D_UL2"])
        d_ul2_train(sys.argv[1], toy_text, batches=d_ul2_batches(toy_text))
        sys.exit()
    if "TOY_DIES_AT" in os.environ:
        options["batches"] = DyingBatches()
    if "TOY_SLEEPS" in os.environ:
        options["batches"] = SlowBatches()
    for mesh in options.pop("meshes", [[-1, 1, 1]]):
        name = "x".join(map(str, mesh))
        result = toy_train(Path(sys.argv[1]) / name, mesh_shape=mesh, **options)
        print(json.dumps({"mesh": mesh, "train_loss": result.train_loss}))
