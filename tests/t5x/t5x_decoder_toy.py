"""A decoder, its batches and its model class in T5X; as a program for two devices."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import t5x_toy

from openba_jax.data.layouts import LAYOUTS, PADDING, Part
from openba_jax.models.registry import model_of, named_config


@functools.cache
def config(**changes: Any) -> Any:
    return named_config("tiny_llama", vocab_size=64, decoder_layers=2, **changes)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Rows of two samples whose targets repeat their inputs: functions of the step."""

    batch_size: int = 8
    length: int = 6
    samples: int = 2

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(step)
        count = self.batch_size * self.samples
        # Ids 0 and 1 are tokens as any other.
        inputs = rng.integers(0, 60, (count, self.length), dtype=np.int32)
        targets = inputs.copy()
        places = np.arange(self.length)
        inputs[places >= rng.integers(2, self.length + 1, (count, 1))] = PADDING
        targets[places >= rng.integers(1, self.length + 1, (count, 1))] = PADDING
        part = Part(
            np.repeat(np.arange(self.batch_size), self.samples),
            {"inputs": inputs, "targets": targets},
        )
        widths = (self.encoder_length, self.decoder_length)
        batch = LAYOUTS["decoder_only"].packed([part], self.batch_size, widths)
        return {name: array[rows or slice(None)] for name, array in batch.items()}

    @property
    def encoder_length(self) -> int:
        return self.samples * self.length

    decoder_length = encoder_length

    def evaluation_batches(self, count: int, *, rows: slice | None = None) -> list:
        return [self.batch(10_000 + number, rows) for number in range(count)]

    def identity(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def model(**changes: Any) -> Any:
    from openba_jax.t5x.decoder_only import DecoderOnlyModel
    from openba_jax.t5x.optimizer import ScheduledOptimizer

    arguments = {
        "config": config(),
        "vocabulary": t5x_toy.vocabulary(),
        "optimizer_def": ScheduledOptimizer(t5x_toy.adamw()),
    }
    return DecoderOnlyModel(**{**arguments, **changes})


def first_models(folder: Path) -> tuple[Path, Path]:
    return t5x_toy.first_models(folder, model_of(config()))


def train_natively(folder: Path, steps: int, initial: Path) -> list[float]:
    return t5x_toy.train_natively(folder, steps, initial, model_of(config()), Batches())


def train_in_t5x(folder: Path, steps: int, initial: Path, **options: Any) -> list[float]:
    return t5x_toy.train_in_t5x(
        folder, steps, initial, trained=model(), batches=Batches(), **options
    )


if __name__ == "__main__":
    # t5x_decoder_toy.py FOLDER: losses with the model on one and on two devices.
    here = Path(sys.argv[1])
    start = first_models(here)[1]
    for partitions in (1, 2):
        found = train_in_t5x(here / str(partitions), 4, start, num_partitions=partitions)
        print(json.dumps({"devices": len(jax.devices()), "losses": found}))
