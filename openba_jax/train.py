r"""Trains a model: from nothing, from a model folder, or on from where a run stopped.

openba-train --gin_file=gin/models/small.gin --gin_file=gin/runs/native/pretrain.gin \
  --gin.MODEL_DIR='"runs/small"' --gin.TOKEN_STORES='["data/train"]' \
  --gin.VOCABULARY='"data/tokenizer.model"' --gin.TRAIN_STEPS=1000 --gin.BATCH_SIZE=32

Killed and started again with the same arguments, it goes on from its newest checkpoint. On several
machines, start it once on each with --coordinator_address, --process_count and --process_index, or
with --multiprocess where JAX finds these itself (TPU pods, Slurm).

--profile_steps=100:105 traces these steps with JAX's profiler, into MODEL_DIR/profile.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from absl import flags

from openba_jax import cli


def main(argv: Sequence[str]) -> None:
    """Trains as the gin files say."""
    cli.reject_positional(argv)
    cli.join_processes()
    import gin
    from openba_jax.training import gin_bindings
    from openba_jax.training.trainer import TrainResult

    cli.parse_gin()
    configured = functools.partial(
        gin_bindings.train,
        extra_files={"config.gin": gin.config_str()},
        profile_steps=flags.FLAGS.profile_steps,
    )
    result = cli.call_configured(configured)
    assert isinstance(result, TrainResult)
    losses = {"loss": result.train_loss, "evaluation loss": result.eval_loss}
    figures = [f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
    cli.say(
        f"{result.model_dir}: {', '.join([f'step {result.step}', *figures])} "
        f"after {result.tokens:,} tokens."
    )


def define_flags() -> None:
    """Defines the flags that training has besides those of gin."""
    cli.define_process_flags()
    flags.DEFINE_string("profile_steps", None, "START:STOP, steps to trace into MODEL_DIR/profile.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run_with_gin(main, "openba-train")


if __name__ == "__main__":
    run()
