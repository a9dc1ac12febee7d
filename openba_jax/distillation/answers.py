"""A teacher's answers to the batches of a run, written once and learnt from by many.

    DIR/answers.json        the setting: batches, teacher, temperature, how many of the likeliest
    DIR/ids-00000.npy       [steps, batch, length, top], the likeliest ids at each target
    DIR/log_p-00000.npy     the same shape, float16: their log-probabilities at the temperature

What the others have together is one bucket: the divergence is taken over `top + 1` outcomes. The
files of an unfinished folder lie in `DIR.openba_answers`, and the same command goes on with them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from openba_jax.distillation.divergences import Divergence, divergence
from openba_jax.distillation.settings import Distillation, value_at
from openba_jax.distillation.teacher import Teacher
from openba_jax.errors import UserError
from openba_jax.files import atomic_path, explain_full_disk, only_process, write_json
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn.losses import (
    Head,
    chunk_length,
    cross_entropy,
    group_sums,
    join_length,
    of_groups,
    position_groups,
    split_length,
    sum_over_chunks,
)
from openba_jax.parallel import sharding
from openba_jax.paths import check_output_folder

SETTING = "answers.json"
IDS, LOG_P = "teacher_ids", "teacher_log_p"
"""What a batch has besides; `[batch, length, top]`."""

STEPS_A_FILE = 32
_WORK = ".openba_answers"
_LARGEST_SUM = 1.0 - 1e-6


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers in a folder.

    Attributes:
      folder: where they lie.
      setting: what they are of.
    """

    folder: Path
    setting: Mapping[str, Any]

    def of(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """The answers to the batch of a step: `IDS` int32 and `LOG_P` float32."""
        number, place = divmod(step, self.setting["steps_a_file"])
        ids, log_p = (
            np.load(self.folder / name, mmap_mode="r")[place][rows or slice(None)]
            for name in _names(number)
        )
        return {IDS: ids.astype(np.int32), LOG_P: log_p.astype(np.float32)}


class AnsweredBatches:
    """Batches of a run with the answers of its teacher; what is evaluated on has none."""

    def __init__(self, batches: Any, answers: Answers) -> None:
        """Wraps `training.feeding.Batches`."""
        self._batches, self._answers = batches, answers
        self.batch_size: int = batches.batch_size
        self.encoder_length: int = batches.encoder_length
        self.decoder_length: int = batches.decoder_length

    @property
    def group_names(self) -> Sequence[str]:
        """Those of the run's batches."""
        return tuple(self._batches.group_names)

    def groups(self, step: int, rows: slice | None = None) -> np.ndarray:
        """Those of the run."""
        return np.asarray(self._batches.groups(step, rows))

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """The batch of a step, and the answers to it."""
        return {**self._batches.batch(step, rows), **self._answers.of(step, rows)}

    def evaluation_batches(self, count: int, *, rows: slice | None = None) -> Any:
        """Those of the run."""
        return self._batches.evaluation_batches(count, rows=rows)

    def identity(self) -> Mapping[str, Any]:
        """That of the run's batches."""
        return dict(self._batches.identity())


@dataclasses.dataclass(frozen=True)
class AnsweredLoss:
    """What a student minimises that learns from answers, a `training.train_step.StepLoss`.

    Attributes:
      settings: the settings, without the place of the answers.
    """

    settings: Distillation

    def shardings(self, mesh: Mesh) -> tuple[Any, ...]:
        """There are no constants: the answers are part of the batch."""
        del mesh
        return ()

    def __call__(
        self,
        model: Model,
        params: Params,
        batch: Batch,
        dropout_rng: jax.Array | None,
        step: jax.typing.ArrayLike,
        constants: tuple[Any, ...],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What is minimised, and sums for the log; see `StepLoss`."""
        del constants
        weights = batch["decoder_loss_weights"]
        sums = sum_over_chunks(
            functools.partial(
                _sums, divergence(self.settings.divergence), self.settings.temperature
            ),
            model.hidden(params, batch, dropout_rng),
            model.head(params),
            (
                *(batch["decoder_target_tokens"], weights, batch[IDS], batch[LOG_P]),
                position_groups(batch),
            ),
            value_at(self.settings.weight, step),
        )
        names = ("minimised_sum", "loss_sum", "divergence_sum", "correct_sum")
        counts = dict(zip(names, sums[:4], strict=True))
        return sums[0], {**counts, "weight_sum": jnp.sum(weights), **of_groups(batch, sums[4:])}


def _sums(
    diverge: Divergence, temperature: float, logits: jax.Array, rows: Any, weight: jax.Array
) -> jax.Array:
    """What is minimised, cross entropy, divergence, right predictions; then cross entropies by
    group: float32 `[4 + groups]`.
    """
    targets, weights, ids, log_p, groups = rows
    of_student = jax.nn.log_softmax(logits / temperature)
    known = jnp.take_along_axis(of_student, ids, axis=-1)
    diverges = jnp.sum(diverge(with_rest(known), with_rest(log_p)) * weights)
    entropies = cross_entropy(logits, targets) * weights
    entropy = jnp.sum(entropies)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
    minimised = (1.0 - weight) * entropy + weight * temperature**2 * diverges
    sums = jnp.stack([minimised, entropy, diverges, correct])
    return jnp.concatenate([sums, group_sums(entropies, groups)])


def with_rest(log_p: jax.Array) -> jax.Array:
    """Log-probabilities `[..., top]` and, behind them, that of all others together."""
    known = jnp.minimum(jnp.sum(jnp.exp(log_p), axis=-1, keepdims=True), _LARGEST_SUM)
    return jnp.concatenate([log_p, jnp.log1p(-known)], axis=-1)


def is_answers(path: Path) -> bool:
    """Whether a folder holds answers."""
    return (path / SETTING).is_file()


def open_answers(path: Path) -> Answers:
    """Opens a folder of answers and checks that its files are whole.

    Raises:
      UserError: a file is missing, cut short or of another shape.
    """
    try:
        setting = json.loads((path / SETTING).read_text(encoding="utf-8"))
        shape = tuple(setting["shape"])
        for number in range(-(-setting["steps"] // setting["steps_a_file"])):
            a_file = setting["steps_a_file"]
            steps = min(a_file, setting["steps"] - number * a_file)
            for name in _names(number):
                found = np.load(path / name, mmap_mode="r").shape
                if found != (steps, *shape):
                    raise ValueError(f"{name} has the shape {found}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the answers in {path} are damaged ({error}); make them again by "
            "`openba-prepare teacher`."
        ) from error
    return Answers(path, setting)


def setting_of(
    teacher: Teacher,
    digest: str,
    batches: Any,
    steps: int,
    top: int,
    temperature: float,
) -> dict[str, Any]:
    """What answers are of, ready for JSON."""
    return {
        "batches": of_training(batches.identity()),
        "teacher": digest,
        "teacher_dtype": teacher.whole.config.param_dtype,
        "vocabulary": teacher.model.config.vocab_size,
        "temperature": float(temperature),
        "top": top,
        "steps": steps,
        "steps_a_file": STEPS_A_FILE,
    }


def of_training(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of the identity of batches those of training depend on, as JSON keeps it."""
    kept = {name: value for name, value in identity.items() if not name.startswith("evaluation")}
    return dict(json.loads(json.dumps(kept)))


def write_answers(
    output: Path,
    teacher: Teacher,
    restored: tuple[Params, str],
    batches: Any,
    mesh: Mesh,
    *,
    steps: int,
    top: int,
    temperature: float = 1.0,
    advance: Callable[[int], object] = lambda _: None,
) -> Answers:
    """Writes the answers to the first batches of a run; goes on where it was stopped.

    Args:
      output: the folder: new, or with the same answers, which are left as they are.
      teacher: the teacher.
      restored: its parameters and their digest.
      batches: of the run, `training.feeding.Batches`.
      mesh: where the parameters lie; one process.
      steps: of the run, or of its beginning.
      top: of the likeliest ids, how many are kept.
      temperature: divides the logits.
      advance: called with the number of steps that were answered.

    Raises:
      UserError: numbers are out of range; the folder holds something else, other answers, or
        unfinished ones of another setting; another process writes it; or the disk is full.
    """
    params, digest = restored
    rows = teacher.model.config.vocab_size
    if not 1 <= top < rows:
        raise UserError(f"--top is {top}; it must be from 1 to {rows - 1}.")
    if steps < 1 or not temperature > 0:
        raise UserError(
            f"--steps is {steps} and --temperature {temperature}; both must be above 0."
        )
    setting = setting_of(teacher, digest, batches, steps, top, temperature)
    place = check_output_folder(output)
    work = place.with_name(place.name + _WORK)
    with only_process(work), explain_full_disk(output):
        if is_answers(place):
            found = open_answers(place)
            _check_same(found.setting, setting, output)
            return found
        if place.exists() and any(place.iterdir()):
            raise UserError(f"{output} holds something else; name a new folder.")
        if (work / SETTING).is_file():
            _check_same(json.loads((work / SETTING).read_text(encoding="utf-8")), setting, output)
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / SETTING, setting)
        answer = _answering(teacher, mesh, top, temperature)
        dtype = np.uint16 if rows <= 1 << 16 else np.int32
        shape: tuple[int, ...] = ()
        for number in range(-(-steps // STEPS_A_FILE)):
            first = number * STEPS_A_FILE
            wanted = range(first, min(first + STEPS_A_FILE, steps))
            ids_name, log_p_name = (work / name for name in _names(number))
            if not log_p_name.exists():  # It is written last.
                made = [jax.device_get(answer(params, batches.batch(step))) for step in wanted]
                _save(ids_name, np.stack([ids for ids, _ in made]).astype(dtype))
                _save(log_p_name, np.stack([log_p for _, log_p in made]).astype(np.float16))
            shape = np.load(log_p_name, mmap_mode="r").shape[1:]
            advance(len(wanted))
        write_json(work / SETTING, {**setting, "shape": list(shape)})
        if place.exists():
            place.rmdir()
        work.rename(place)
    return open_answers(place)


def _answering(teacher: Teacher, mesh: Mesh, top: int, temperature: float) -> Any:
    """The compiled `(params, batch) -> (ids, log_p)`, each `[batch, length, top]`."""

    def of_chunk(head: Head, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p, ids = jax.lax.top_k(jax.nn.log_softmax(head.logits(hidden) / temperature), top)
        return ids, log_p

    def answer(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        hidden, head = teacher.model.hidden(params, batch), teacher.head(params)
        chunk = min(hidden.shape[1], chunk_length(hidden.shape[0], head.kernel.shape[1]))
        chunks = split_length(hidden, chunk)
        ids, log_p = jax.lax.map(functools.partial(of_chunk, head), chunks)
        return join_length(ids, hidden.shape[1]), join_length(log_p, hidden.shape[1])

    rows = sharding.batch_sharding(mesh)
    return sharding.jit_on_mesh(answer, mesh, in_shardings=(teacher.shardings(mesh), rows))


def _check_same(found: Mapping[str, Any], setting: Mapping[str, Any], output: Path) -> None:
    """Checks that answers are of a setting.

    Raises:
      UserError: they are of another one.
    """
    names = [n for n in setting if found.get(n) != setting[n]]
    if names:
        now = (
            ""
            if names[0] == "batches"
            else f" ({found.get(names[0])} there, {setting[names[0]]} now)"
        )
        raise UserError(
            f"{output} has answers of another setting: {names[0]} differs{now}; name another "
            "folder, or remove it."
        )


def answers_for(
    settings: Distillation, path: Path, vocabulary: int, batches: Any, steps: int
) -> Answers:
    """Opens answers and checks that a run can learn from them.

    Args:
      settings: of the distillation.
      path: their folder.
      vocabulary: rows of the student's.
      batches: of the run.
      steps: of the run.

    Raises:
      UserError: they are damaged, of other batches, another vocabulary or temperature, or of fewer
        steps; or hidden states are asked for.
    """
    found = open_answers(path)
    setting = found.setting
    if settings.compares_hidden:
        raise UserError(f"the answers in {path} have no hidden states; name the teacher itself.")
    if setting["batches"] != of_training(batches.identity()):
        raise UserError(
            f"the answers in {path} are to other batches than those of this run; make them with "
            "its stores, mixture, lengths, batch size and seed."
        )
    for what, there, now in (
        ("for a vocabulary of rows", setting["vocabulary"], vocabulary),
        ("of the temperature", setting["temperature"], float(settings.temperature)),
        ("of a teacher of the type", setting["teacher_dtype"], settings.teacher_dtype),
    ):
        if there != now:
            raise UserError(
                f"the answers in {path} are {what} {there}, and this run has {now}; make others by "
                "`openba-prepare teacher`."
            )
    if steps > setting["steps"]:
        raise UserError(
            f"the answers in {path} are for {setting['steps']} steps, and the run has {steps}; "
            "make more."
        )
    logging.info("learning from %d answers a target in %s", setting["top"], path)
    return found


def _names(number: int) -> tuple[str, str]:
    return f"ids-{number:05d}.npy", f"log_p-{number:05d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
