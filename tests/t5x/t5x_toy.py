"""A model, batches and a run of seconds, in both runners; as a program for several devices."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.checkpoint import load_state
from openba_jax.checkpoints.folders import new_folder
from openba_jax.checkpoints.registry import FORMATS, open_checkpoint
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.training import optimizer, trainer


@functools.cache
def config(**changes: Any) -> OpenBAConfig:
    fields = {
        "vocab_size": 64,
        "embed_dim": 16,
        "num_heads": 4,
        "head_dim": 4,
        "mlp_dim": 24,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "initializer_std": 0.3,
    }
    return OpenBAConfig(**{**fields, **changes})


@functools.cache
def adamw() -> optimizer.Optimizer:
    return optimizer.adamw(optimizer.warmup_cosine(1e-2, 1e-3, 5, 100))


@dataclasses.dataclass(frozen=True)
class Batches:
    """Random rows whose targets repeat their inputs, of uneven lengths: functions of the step."""

    batch_size: int = 8
    encoder_length: int = 8
    decoder_length: int = 6

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(step)
        inputs = rng.integers(3, 60, (self.batch_size, self.encoder_length), dtype=np.int32)
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

    def evaluation_batches(self, count: int, *, rows: slice | None = None) -> list:
        return [self.batch(10_000 + number, rows) for number in range(count)]

    def identity(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def vocabulary() -> Any:
    import seqio

    return seqio.PassThroughVocabulary(64, eos_id=1)


def model(**changes: Any) -> Any:
    from openba_jax.t5x.model import EncoderDecoderModel
    from openba_jax.t5x.optimizer import ScheduledOptimizer

    arguments = {
        "config": config(),
        "vocabulary": vocabulary(),
        "optimizer_def": ScheduledOptimizer(adamw()),
    }
    return EncoderDecoderModel(**{**arguments, **changes})


def move(source: Path, target: Path, kind: str) -> None:
    """A checkpoint as another folder of the format `kind`, optimizer state included."""
    with new_folder(target) as folder:
        FORMATS[kind].write(open_checkpoint(source), folder)


def read(folder: Path) -> dict[str, Any]:
    """`params`, `step` and, where there is one, `opt_state` of a checkpoint of any format."""
    return load_state(open_checkpoint(folder))


def first_models(folder: Path, network: Any = None) -> tuple[Path, Path]:
    """The same random model as a model folder and as a T5X folder."""
    ours, theirs = folder / "first", folder / "first_t5x"
    network = network or model_of(config())
    training_state.create(ours, network, network.init(jax.random.key(0)))
    move(ours, theirs, "t5x")
    return ours, theirs


def train_natively(
    folder: Path,
    steps: int,
    initial: Path | None = None,
    network: Any = None,
    batches: Any = None,
    **options: Any,
) -> list[float]:
    """Losses of the steps that were taken."""
    trainer.train(
        model_dir=str(folder),
        model=network or model_of(config()),
        batches=batches or Batches(),
        optimizer=adamw(),
        train_steps=steps,
        initial_model=None if initial is None else str(initial),
        log_every=1,
        progress=False,
        **options,
    )
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["split"] == "train"]


def write_config(folder: Path, network: Any) -> None:
    if jax.process_index() == 0:
        model_folder.write_metadata(folder, network)


def train_in_t5x(
    folder: Path,
    steps: int,
    initial: Path | None = None,
    num_partitions: int = 1,
    num_microbatches: int = 1,
    trained: Any = None,
    batches: Any = None,
    **options: Any,
) -> list[float]:
    """Losses of the steps that `t5x.train.train` took."""
    import t5x.train
    from t5x import trainer as t5x_trainer
    from t5x import utils

    from openba_jax.t5x import checkpoints, data
    from openba_jax.t5x.partitioner import Partitioner
    from openba_jax.t5x.trainer import Trainer

    losses: list[float] = []

    class Record(t5x_trainer.BaseAction):
        def run(self, train_state: Any, metrics_by_task: Any) -> bool:
            losses.append(float(metrics_by_task["train"]["loss"].value))
            return False

    trained, batches = trained or model(), batches or Batches()
    restore = utils.RestoreCheckpointConfig(path=[])
    if initial is not None:
        restore = utils.RestoreCheckpointConfig(
            path=checkpoints.checkpoint(str(initial), trained.config),
            mode="specific",
            state_transformation_fns=[checkpoints.fresh_optimizer],
            fallback_to_scratch=True,
        )
    t5x.train.train(
        model=trained,
        train_dataset_cfg=utils.DatasetConfig("toy", {}, "train", batches.batch_size, True, 0),
        train_eval_dataset_cfg=None,
        infer_eval_dataset_cfg=None,
        checkpoint_cfg=utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=1000, dtype=None), restore=restore
        ),
        partitioner=Partitioner(num_partitions=num_partitions),
        trainer_cls=functools.partial(Trainer, num_microbatches=num_microbatches, **options),
        model_dir=str(folder),
        total_steps=steps,
        eval_steps=0,
        eval_period=0,
        stats_period=1,
        random_seed=0,
        summarize_config_fn=lambda *_: write_config(folder, trained.model),
        get_dataset_fn=functools.partial(
            data.native_batches, batches=batches, model_dir=str(folder)
        ),
        concurrent_metrics=False,
        actions={"TRAIN": [Record()]},
        verify_matching_vocabs_fn=None,
    )
    return losses


if __name__ == "__main__":
    # t5x_toy.py FOLDER START HOST:PORT INDEX: losses of two processes that train together.
    if len(sys.argv) > 2:
        jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[4]))
        print(json.dumps(train_in_t5x(Path(sys.argv[1]), 4, Path(sys.argv[2]))))
        sys.exit()
    # t5x_toy.py FOLDER: losses with the model on one, two and four devices each.
    here = Path(sys.argv[1])
    start = first_models(here)[1]
    for partitions in (1, 2, 4):
        found = train_in_t5x(here / str(partitions), 4, start, num_partitions=partitions)
        print(json.dumps({"devices": len(jax.devices()), "losses": found}))
