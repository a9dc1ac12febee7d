r"""Trains a model: from nothing, from a model folder, or on from where a run stopped.

openba-train --gin_file=gin/models/small.gin --gin_file=gin/runs/native/pretrain.gin \
  --gin.MODEL_DIR='"runs/small"' --gin.TOKEN_STORES='["data/train"]' \
  --gin.VOCABULARY='"data/tokenizer.model"' --gin.TRAIN_STEPS=1000 --gin.BATCH_SIZE=32

Killed and started again with the same arguments, it goes on from its newest checkpoint. On several
machines, start it once on each with --coordinator_address, --process_count and --process_index, or
with --multiprocess where JAX finds these itself (TPU pods, Slurm).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from absl import flags

from openba_jax import cli


def _join_processes() -> None:
    """Meets the other processes of the run, if there are any; before JAX looks for devices."""
    import jax

    values = flags.FLAGS
    if values.coordinator_address:
        jax.distributed.initialize(
            values.coordinator_address, values.process_count, values.process_index
        )
    elif values.multiprocess:
        jax.distributed.initialize()


def main(argv: Sequence[str]) -> None:
    """Trains as the gin files say."""
    cli.refuse_words(argv)
    _join_processes()
    import gin
    from openba_jax.training import gin_bindings
    from openba_jax.training.trainer import TrainResult

    cli.parse_gin()
    configured = functools.partial(gin_bindings.train, extra_files={"config.gin": gin.config_str()})
    result = cli.call_configured(configured)
    assert isinstance(result, TrainResult)
    losses = {"loss": result.train_loss, "evaluation loss": result.eval_loss}
    figures = [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
    sys.stdout.write(
        f"{result.model_dir}: {', '.join([f'step {result.step}', *figures])} "
        f"after {result.tokens:,} tokens.\n"
    )


def define_flags() -> None:
    """Defines the flags of this main."""
    cli.define_gin_flags()
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0, on all processes.")
    flags.DEFINE_integer("process_count", None, "How many processes take part.", lower_bound=1)
    flags.DEFINE_integer("process_index", None, "Number of this process, from 0.", lower_bound=0)
    flags.DEFINE_bool("multiprocess", False, "Let JAX find out about the other processes.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
