"""`Teacher`: opened and checked by reading little; its parameters are read last."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from openba_jax import paths
from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.distillation import hidden
from openba_jax.distillation.descent import Party, Rows, descent, vocabulary_rows
from openba_jax.distillation.divergences import divergence
from openba_jax.distillation.loss import distilled_sums
from openba_jax.distillation.settings import Distillation, value_at
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn.losses import Head
from openba_jax.parallel import sharding
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.saved_plan import plan_of, plan_of_folder
from openba_jax.pruning.transform import take

PADDING_LOGIT = -20.0
"""Added to the teacher's logits of rows that only pad the student's vocabulary and stand for no
token: next to no probability, and still a finite divergence in either direction."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher for one student, without parameters.

    Attributes:
      source: where it lies.
      whole: the model as it lies there, in the types that it has as a teacher.
      rows: what the student's vocabulary is in its own; None: the same.
      matched: the layers whose hidden states the student's are compared with.
    """

    source: Path = dataclasses.field(compare=False)  # No part of the compiled program.
    whole: Model
    rows: Rows | None
    matched: tuple[hidden.Match, ...] = ()

    @functools.cached_property
    def model(self) -> Model:
        """The model with the vocabulary of the student."""
        if self.rows is None:
            return self.whole
        return pruned_model(_plan_of_rows(self.whole, self.rows), self.whole)

    def shardings(self, mesh: Mesh) -> Any:
        """How its parameters lie: by the same rules as the student's."""
        return _shardings(self.model, mesh)

    def constants(self, params: Params, mesh: Mesh) -> tuple[Any, ...]:
        """What `DistilledLoss` reads: the parameters, and the channels that the student has."""
        kept = hidden.kept_channels(self.matched)
        return params, jax.device_put(kept, sharding.replicated(mesh))

    def restore(self, mesh: Mesh) -> tuple[Params, str]:
        """Reads its parameters.

        Returns:
          The parameters of `model`, sharded; and a digest of those of the whole teacher, by which a
          run knows it again wherever it lies.

        Raises:
          DamagedCheckpointError: the checkpoint is damaged.
          UserError: a tensor is missing, has another shape, or is not finite.
        """
        params = _read(self.source, self.whole, _shardings(self.whole, mesh))
        digest = digest_of(params)
        if self.rows is None:
            return params, digest
        axes = self.whole.logical_axes()
        keep = {VOCAB: self.rows.kept}
        cut = sharding.jit_on_mesh(
            lambda tree: take(tree, axes, keep),
            mesh,
            out_shardings=self.shardings(mesh),
        )
        return cut(params), digest

    def head(self, params: Params) -> Head:
        """What makes logits for the student's vocabulary."""
        head = self.model.head(params)
        if self.rows is None or self.rows.real == len(self.rows.kept):
            return head
        pads = jnp.arange(len(self.rows.kept)) >= self.rows.real
        bias = jnp.where(pads, PADDING_LOGIT, 0.0)
        return head._replace(bias=bias if head.bias is None else head.bias + bias)


@dataclasses.dataclass(frozen=True)
class DistilledLoss:
    """What a student minimises, a `training.train_step.StepLoss`.

    Its constants are the teacher's parameters and the channels that the student has: students of
    one shape, which keep other channels, share a compiled program.

    Attributes:
      settings: the settings, without the place of the teacher.
      teacher: the teacher.
    """

    settings: Distillation
    teacher: Teacher

    def shardings(self, mesh: Mesh) -> tuple[Any, ...]:
        """Of the teacher's parameters, and of the channels."""
        return self.teacher.shardings(mesh), sharding.replicated(mesh)

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
        # Outside of what is differentiated: no gradient reaches the teacher.
        taught, channels = jax.lax.stop_gradient(constants[0]), constants[1]
        matched = self.teacher.matched
        teacher_hidden, teacher_streams = self.teacher.model.observe(
            taught, batch, hidden.streams(matched, channels)
        )
        student_hidden, student_streams = model.observe(
            params, batch, hidden.streams(matched, {}), dropout_rng
        )
        minimised, counts = distilled_sums(
            student_hidden,
            model.head(params),
            batch,
            teacher_hidden,
            self.teacher.head(taught),
            divergence(self.settings.divergence),
            self.settings.temperature,
            value_at(self.settings.weight, step),
        )
        if matched:
            error = hidden.hidden_error(matched, student_streams, teacher_streams, model, batch)
            minimised += value_at(self.settings.hidden_weight, step) * error
            counts["hidden_error_sum"] = error
        return minimised, {**counts, "minimised_sum": minimised}


def open_teacher(settings: Distillation, student: Party) -> Teacher:
    """Opens a teacher and checks that a student can learn from it; parameters are not read.

    Raises:
      UserError: there is no such model; it reads other batches, has another vocabulary, or is not
        what the student was cut from, where that matters.
    """
    source = paths.local(settings.teacher)
    if not model_folder.split_path(source)[0].exists():
        raise UserError(f"the teacher {source} does not exist; give a checkpoint as TEACHER.")
    teacher = party_of(source)
    found = teacher.model
    if found.layout != student.model.layout:
        raise UserError(
            f"the teacher {source} is of the kind {found.layout!r} and the student of the kind "
            f"{student.model.layout!r}, which read other batches; give a teacher of that kind."
        )
    rows = vocabulary_rows(student, teacher)
    matched: tuple[hidden.Match, ...] = ()
    if settings.compares_hidden:
        keep = descent(student, teacher)
        matched = hidden.matches(keep, found, settings.hidden_layers)
    whole = found.replace(
        dtype=student.model.config.dtype,
        param_dtype=settings.teacher_dtype,
        attention=student.model.config.attention,
        remat_policy="none",
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    return Teacher(source, whole, rows, matched)


class Lesson(NamedTuple):
    """What a run needs to be distilled.

    Attributes:
      loss: what it minimises, a `training.train_step.StepLoss`.
      constants: what that reads besides parameters and batch.
      identity: what the run is distilled from, ready for JSON.
    """

    loss: Any
    constants: tuple[Any, ...]
    identity: dict[str, Any]


def prepare(
    settings: Distillation,
    student: Party,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray] | None = None,
) -> Lesson:
    """Opens a teacher, checks it, and reads its parameters.

    Args:
      settings: the settings.
      student: what is trained.
      mesh: where the teacher's parameters are to lie.
      batch: one of those that both will read; with it the teacher is traced here, and refuses
        what it cannot do before its parameters are read.

    Raises:
      DamagedCheckpointError: the teacher's checkpoint is damaged.
      UserError: there is no such model; it reads other batches, has another vocabulary, is not
        what the student was cut from, where that matters, or is not finite; or a weight moves over
        all steps, and `settings.of_length` has not said how many.
    """
    for weight in (settings.weight, settings.hidden_weight):
        value_at(weight, 0)  # Refuses a length that is not known before a checkpoint is read.
    teacher = open_teacher(settings, student)
    if batch is not None:
        jax.eval_shape(teacher.model.hidden, teacher.model.abstract_params(), dict(batch))
    params, digest = teacher.restore(mesh)
    loss = DistilledLoss(dataclasses.replace(settings, teacher=""), teacher)
    return Lesson(loss, teacher.constants(params, mesh), _identity(settings, teacher, digest))


def party_of(source: Path) -> Party:
    """A checkpoint of any format as teacher or student; no tensor is read.

    Raises:
      UserError: it is none.
    """
    name = f"the model in {source}"
    if Native().recognises(source):
        folder, step = model_folder.split_path(source)
        model_folder.existing_step(folder, step)
        model, plan = model_folder.load_model(folder), plan_of_folder(folder)
        return Party(model, plan, model_folder.tokenizer_path(folder), name)
    opened = open_checkpoint(source)
    return Party(opened.model, plan_of(opened, source), opened.tokenizer, name)


def _read(source: Path, model: Model, shardings: Any) -> Params:
    """The parameters of a checkpoint of any format; other than native ones pass through memory."""
    if Native().recognises(source):
        return cast(Params, training_state.restore_params(source, model, shardings))
    wanted = model.abstract_params()
    training_state.require_memory_for(wanted)
    tree = load_tree(open_checkpoint(source))
    model_folder.check_shapes(
        model_folder.tree_shapes(tree), model_folder.tree_shapes(wanted), source
    )

    def placed(array: np.ndarray, like: Any, where: Any) -> jax.Array:
        values = array.astype(like.dtype)
        return jax.make_array_from_callback(values.shape, where, lambda index: values[index])

    params = jax.tree.map(placed, tree, wanted, shardings)
    training_state.check_finite(params, source)
    return cast(Params, params)


def _identity(settings: Distillation, teacher: Teacher, digest: str) -> dict[str, Any]:
    """What a run is distilled from; where the teacher lies is not part of it."""
    config = {**teacher.whole.config.to_dict(), "dtype": None, "attention": None}
    shape = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return {**settings.identity(), "teacher": {"config": shape, "parameters": digest}}


def digest_of(params: Params) -> str:
    """A digest of the values of parameters, the same on every mesh and in every format on disk."""
    sums = jax.device_get(_digests(params))
    digest = hashlib.sha256()
    for path, value in jax.tree.leaves_with_path(sums):
        digest.update(f"{jax.tree_util.keystr(path)}={int(value)};".encode())
    return digest.hexdigest()[:16]


@jax.jit
def _digests(params: Params) -> Any:
    """For every parameter a uint32: the sum of its bits, each multiplied by where it stands.

    Sums of whole numbers do not depend on their order, and so not on the mesh.
    """

    def of_leaf(leaf: jax.Array) -> jax.Array:
        kind = {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
                jnp.uint32, leaf.shape, axis
            )
        # Odd factors, which lose no bit; Knuth's constant spreads neighbours.
        factor = place * jnp.uint32(2654435761) * jnp.uint32(2) + jnp.uint32(1)
        return jnp.sum(bits * factor, dtype=jnp.uint32)

    return jax.tree.map(of_leaf, params)


def _plan_of_rows(model: Model, rows: Rows) -> Plan:
    return Plan(model.config.to_dict(), "", {VOCAB: rows.kept})


def _shardings(model: Model, mesh: Mesh) -> Any:
    return sharding.param_shardings(model.logical_axes(), model.abstract_params(), mesh)
