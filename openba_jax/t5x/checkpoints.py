"""What T5X needs to know about checkpoints besides reading and writing them.

T5X restores arrays as they lie on the disk, whatever shapes its model has: a checkpoint of another
depth ends in an error deep inside the network, or, where unrolled layers are left over, in a
warning. And it saves no configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from clu import metric_writers
from t5x import gin_utils

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.formats.t5x import check_fits, find_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import model_of
from openba_jax.t5x.model import NetworkModel

_FINISHED = "checkpoint_*[0-9]"
"""T5X gives a checkpoint its plain number only when it is complete."""


def checkpoint(path: str, config: ModelConfig) -> str:
    """The absolute path of a checkpoint: `path`, or the newest `checkpoint_<step>` in it.

    Args:
      path: a T5X model folder or one checkpoint.
      config: what its shapes must fit.

    Raises:
      UserError: there is none, it is damaged, or it is of a model of another shape.
    """
    place = find_checkpoint(_local(path))
    check_fits(place, model_of(config))
    return str(place)


def model_dir(path: str, config: ModelConfig) -> str:
    """Where the checkpoints of a run go, absolute; if there are some, they must fit.

    Raises:
      UserError: the newest is damaged or of a model of another shape, or the folder is one of the
        native runner's.
    """
    folder = _local(path)
    if newest_step(path) is not None:
        checkpoint(path, config)
    elif (folder / model_folder.CHECKPOINTS).exists() or (folder / model_folder.PLAN).exists():
        raise UserError(
            f"{path} is a model folder of the native runner, whose config.json and tokenizer.model "
            "this run would replace; give another MODEL_DIR (openba-convert to_t5x "
            "--keep_optimizer makes one from it)."
        )
    return str(folder)


def _local(path: str) -> Path:
    """The absolute path, which orbax asks for.

    Raises:
      UserError: it is an address: configuration, tokenizer and rates are kept in plain files.
    """
    if "://" in path:
        raise UserError(f"{path} is no folder; mount the bucket and name the folder in it.")
    return Path(path).absolute()


def order_seed(model_dir: str, seed: int) -> int:
    """A seed of the order of examples: another one whenever a run goes on.

    With one seed T5X would show a run that goes on the same examples again. To go on exactly, take
    gin/runs/t5x/native_batches.gin.

    Args:
      model_dir: of the run.
      seed: of the run.
    """
    return seed + (newest_step(model_dir) or 0)


def newest_step(model_dir: str) -> int | None:
    """Step of the newest checkpoint of a run, None before the first."""
    if not any(Path(model_dir).glob(_FINISHED)):
        return None
    return int(find_checkpoint(Path(model_dir)).name.rpartition("_")[2])


def config_of(folder: str, **changes: Any) -> ModelConfig:
    """The configuration beside a T5X checkpoint, fields changed at will.

    Args:
      folder: a T5X model folder or `DIR/checkpoint_<step>`.
      **changes: fields of the configuration.

    Raises:
      UserError: there is no `config.json`, or a field is unknown.
    """
    return model_folder.load_model(find_checkpoint(Path(folder)).parent).config.replace(**changes)


def tokenizer_of(folder: str) -> str:
    """The sentencepiece model beside a T5X checkpoint.

    Raises:
      UserError: there is none.
    """
    place = find_checkpoint(Path(folder)).parent
    tokenizer = model_folder.tokenizer_path(place)
    if tokenizer is None:
        raise UserError(f"{place} has no tokenizer; name one with --gin.VOCABULARY.")
    return str(tokenizer)


def fresh_optimizer(
    state: Mapping[str, Any], target: Mapping[str, Any], *, is_resuming: bool = False
) -> Mapping[str, Any]:
    """A `state_transformation_fn`: takes parameters alone from another run's checkpoint.

    T5X's way is to go on with the step and the moments of the checkpoint. With this function (and
    `fallback_to_scratch`) a run starts at step 0 as the native runner's does; a run that resumes
    itself keeps everything.
    """
    del target
    return state if is_resuming else {"target": state["target"]}


def write_summary(
    model_dir: str,
    summary_writer: metric_writers.MetricWriter | None,
    step: int,
    *,
    model: NetworkModel,
    initial: str | None = None,
) -> None:
    """A `summarize_config_fn`: writes `config.gin` as T5X's, `config.json` and the tokenizer.

    With them `openba-convert`, `openba-prune` and `config_of` know what the checkpoints hold.

    Args:
      model_dir: the T5X model folder.
      summary_writer: TensorBoard.
      step: of the run.
      model: the model.
      initial: a T5X folder, or a checkpoint in it, whose pruning plan the run inherits.
    """
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    if jax.process_index() != 0:
        return
    vocabulary = model.output_vocabulary.vocabulary
    plan = (
        None if initial is None else model_folder.load_plan(find_checkpoint(Path(initial)).parent)
    )
    model_folder.write_metadata(Path(model_dir), model_of(model.config), plan, vocabulary.path)
