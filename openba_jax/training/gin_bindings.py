"""The names that gin files of the native runner may configure, in one place.

Nothing else in the package knows gin: what is called from Python is never changed by a gin file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from openba_jax.checkpoints.model_folder import load_model, split_path
from openba_jax.checkpoints.registry import check_is_model_folder
from openba_jax.cli import gin_values
from openba_jax.data.loader import BatchLoader
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.distillation import settings as distillation_settings
from openba_jax.distillation.settings import Distillation, Schedule
from openba_jax.errors import UserError
from openba_jax.evaluation.while_training import BenchmarkEvaluator
from openba_jax.models import registry
from openba_jax.models.config import ModelConfig
from openba_jax.objectives.mixture import get_mixture
from openba_jax.paths import local
from openba_jax.training import layer_optimizers, optimizer, trainer
from openba_jax.training.adaptation import PUBLISHED, Adaptation
from openba_jax.training.records.telemetry import Telemetry


def config_of(folder: str, **changes: Any) -> ModelConfig:
    """The configuration of a model folder (or of `DIR/checkpoints/<step>`), fields changed at will.

    Raises:
      UserError: the folder has none, it is of another format, or a field is unknown.
    """
    try:
        found = load_model(split_path(local(folder))[0]).config
    except UserError:
        check_is_model_folder(local(folder))  # A folder of another format is the likely reason.
        raise
    return found.replace(**changes)


def token_batches(
    mixture: str,
    stores: str | Sequence[str],
    vocabulary: str,
    batch_size: int,
    feature_lengths: Mapping[str, int],
    seed: int = 0,
    held_out: int = 0,
    evaluation_stores: str | Sequence[str] = (),
    pack: bool = False,
) -> BatchLoader:
    """Batches from token stores, in T5X's terms.

    Args:
      mixture: name of a task or mixture.
      stores: prefixes of token stores, or one of them.
      vocabulary: the tokenizer's file that the stores were made with.
      batch_size: rows of a batch.
      feature_lengths: `{'inputs': encoder positions, 'targets': decoder positions}`.
      seed: of order and noise.
      held_out: examples of each kind at the end of the stores that are kept for evaluation.
      evaluation_stores: stores to evaluate on instead.
      pack: let several instruction samples share a row.

    Raises:
      UserError: something of this does not exist or does not fit together.
    """
    encoder_length, decoder_length = gin_values.feature_lengths(feature_lengths)
    return BatchLoader(
        get_mixture(mixture),
        [local(store) for store in gin_values.several(stores)],
        open_vocabulary(local(vocabulary)),
        batch_size=batch_size,
        encoder_length=encoder_length,
        decoder_length=decoder_length,
        seed=seed,
        held_out=held_out,
        evaluation_stores=[local(store) for store in gin_values.several(evaluation_stores)],
        pack=pack,
    )


def adaptation(
    mixture: str, target_losses: str | Mapping[str, float] = PUBLISHED, floor: float = 0.0
) -> Adaptation | None:
    """How the rates of a D-UL2 mixture move; None for others, whose rates are fixed.

    Args:
      mixture: name of a task or mixture.
      target_losses: see `Adaptation`.
      floor: see `Adaptation`.

    Raises:
      UserError: one of the two is given for a mixture whose rates are fixed.
    """
    found = get_mixture(mixture)
    if found.rule is None and (target_losses != PUBLISHED or floor):
        raise UserError(
            f"the rates of {mixture} are fixed; TARGET_LOSSES and RATE_FLOOR are for D-UL2 alone."
        )
    if isinstance(target_losses, str) and target_losses != PUBLISHED:
        target_losses = str(local(target_losses))
    return None if found.rule is None else Adaptation(found, target_losses, floor)


def benchmarks(
    names: str | Sequence[str],
    questions: str | Mapping[str, str],
    vocabulary: str,
    feature_lengths: Mapping[str, int],
    batch_size: int = 32,
    every: int | None = None,
    preset: str = "corrected",
    shots: int | None = None,
) -> BenchmarkEvaluator | None:
    """What is asked while a model is trained; None without names.

    Args:
      names: of benchmarks, with or without a template.
      questions: where they lie, see `evaluation.sources.places`.
      vocabulary: the tokenizer's file.
      feature_lengths: `{'inputs': longest prompt, 'targets': longest answer}`, in tokens.
      batch_size: questions at once.
      every: steps between; None: at every evaluation.
      preset: see `evaluation.benchmarks.base.Benchmark.configured`.
      shots: demonstrations at most; None: as templates say.

    Raises:
      UserError: something of this does not exist or does not fit together.
    """
    if not names and not questions:
        return None
    lengths = gin_values.feature_lengths(feature_lengths)
    return BenchmarkEvaluator(
        gin_values.several(names),
        questions,
        open_vocabulary(local(vocabulary)),
        lengths,
        batch_size=batch_size,
        every=every,
        preset=preset,
        shots=shots,
    )


def distillation(
    teacher: str,
    loss: str = Distillation.divergence,
    temperature: float = Distillation.temperature,
    weight: float | Schedule = Distillation.weight,
    hidden_weight: float | Schedule = Distillation.hidden_weight,
    hidden_layers: str = Distillation.hidden_layers,
    teacher_dtype: str = Distillation.teacher_dtype,
) -> Distillation | None:
    """What a run is distilled from; None without a teacher.

    Args:
      teacher: a model folder, or `DIR/checkpoints/<step>` in one; "": there is none.
      loss: the divergence; this and the others: see `Distillation`.
      temperature: divides the logits of both.
      weight: of the divergence.
      hidden_weight: of the difference of hidden states.
      hidden_layers: which ones are compared.
      teacher_dtype: type of the teacher's parameters.

    Raises:
      UserError: a value is not what it should be, or there are some and no teacher.
    """
    settings = Distillation(
        teacher, loss, temperature, weight, hidden_weight, hidden_layers, teacher_dtype
    )
    if not teacher and settings != Distillation(teacher):
        raise UserError(
            "DISTILLATION_* and TEACHER_DTYPE are for runs with a teacher, and TEACHER is empty; "
            "name a model folder, or leave them out."
        )
    return settings if teacher else None


def telemetry(
    task_losses: bool = Telemetry.task_losses,
    gradient_norms: bool = Telemetry.gradient_norms,
    tracker: str = Telemetry.tracker,
    project: str = Telemetry.project,
) -> Telemetry:
    """What a run records besides losses and speed.

    Args:
      task_losses: the loss of each task of the mixture; this and the others: see `Telemetry`.
      gradient_norms: the norm of the gradient of each block.
      tracker: a further place for all records.
      project: what runs are shown together with there.

    Raises:
      UserError: the tracker is unknown or not installed.
    """
    return Telemetry(task_losses, gradient_norms, tracker, project)


def _configurable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function known to gin under its own name, its arguments checked."""
    made = gin_values.checked(function)
    # T5X prints the configuration; gin then looks a name up in the module that it says it is of.
    made.__module__ = __name__
    return gin.external_configurable(made, function.__name__)


named_config = _configurable(registry.named_config)
model_of = _configurable(registry.model_of)
config_of = _configurable(config_of)
warmup_cosine = _configurable(optimizer.warmup_cosine)
warmup_constant = _configurable(optimizer.warmup_constant)
inverse_square_root = _configurable(optimizer.inverse_square_root)
adamw = _configurable(optimizer.adamw)
adafactor = _configurable(layer_optimizers.adafactor)
muon = _configurable(layer_optimizers.muon)
token_batches = _configurable(token_batches)
adaptation = _configurable(adaptation)
benchmarks = _configurable(benchmarks)
distillation = _configurable(distillation)
linear_weight = _configurable(distillation_settings.linear_weight)
cosine_weight = _configurable(distillation_settings.cosine_weight)
telemetry = _configurable(telemetry)
train = _configurable(trainer.train)
