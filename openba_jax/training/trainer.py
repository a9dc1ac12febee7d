"""The training loop: restores, steps, evaluates, writes down, saves.

A run is a function of its arguments: killed at any moment and started again with the same ones, it
ends with the same parameters, bit for bit. Three things make it so: a batch is a function of the
step, dropout is a function of (seed, step), and every record of the log ends at a fixed step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from openba_jax import paths
from openba_jax.checkpoints.formats import native
from openba_jax.errors import UserError
from openba_jax.evaluation.loss_on_mesh import Evaluation, local_rows
from openba_jax.files import explain_full_disk, only_process, write_atomically
from openba_jax.models.counting import train_flops_per_example
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.parallel import hardware, sharding
from openba_jax.training import feeding, metrics, rates_plot, train_step
from openba_jax.training.adaptation import Adaptation, AdaptiveBatches, MovingRates
from openba_jax.training.optimizer import Optimizer

SHARDING = "sharding.txt"
"""File in the model folder that says how every parameter lies on the mesh."""

MAX_STEPS_IN_FLIGHT = 2
"""Steps that may wait on the devices; with more, only batches would pile up there."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Where a run ended.

    Attributes:
      model_dir: its model folder.
      step: number of steps taken.
      tokens: tokens seen, padding excluded, encoder and decoder together.
      train_loss: nats per target token over the last interval of the log, None if there is none.
      eval_loss: the same on the evaluation batches, None if there are none.
      history: `metrics.jsonl`.
    """

    model_dir: Path
    step: int
    tokens: int
    train_loss: float | None
    eval_loss: float | None
    history: Path


def train(
    *,
    model_dir: str,
    model_config: OpenBAConfig,
    batches: feeding.Batches,
    optimizer: Optimizer,
    train_steps: int,
    eval_batches: int = 0,
    initial_model: str | None = None,
    tokenizer: str | None = None,
    mesh_shape: Sequence[int] = (-1, 1, 1),
    accumulation: int = 1,
    seed: int = 0,
    log_every: int = 10,
    eval_every: int | None = None,
    checkpoint_every: int = 1000,
    max_to_keep: int | None = 2,
    keep_period: int | None = None,
    extra_files: Mapping[str, str] | None = None,
    adaptation: Adaptation | None = None,
    progress: bool = True,
) -> TrainResult:
    """Trains until `train_steps`, from the newest checkpoint in `model_dir` if there is one.

    Args:
      model_dir: the model folder; new, empty or of this run.
      model_config: the configuration.
      batches: where batches come from.
      optimizer: the optimizer.
      train_steps: step at which the run ends, counted from its beginning.
      eval_batches: how many batches to evaluate on.
      initial_model: a model folder, or `DIR/checkpoints/<step>`, whose parameters (and pruning
        plan, and tokenizer unless given) a new run starts from; without it they are random.
      tokenizer: a sentencepiece model file that becomes part of the model folder.
      mesh_shape: sizes of the mesh axes data, fsdp, model; one may be -1.
      accumulation: micro-batches per step.
      seed: of random parameters and dropout.
      log_every: steps per record of the log.
      eval_every: steps between evaluations; besides, one before the first step and one after the
        last. None: only these two.
      checkpoint_every: steps between checkpoints; besides, one after the last step.
      max_to_keep: older checkpoints are deleted; None keeps all.
      keep_period: checkpoints of multiples of this step are kept whatever `max_to_keep` says.
      extra_files: texts to write into the model folder, by file name.
      adaptation: how the rates of the batches, which are `AdaptiveBatches` then, follow the losses
        of the denoisers at every `eval_every` steps (D-UL2).
      progress: show a progress line on stderr.

    Raises:
      UserError: the folder holds something else, cannot be written, is or overlaps with a model
        that is read, or another process is training in it, a checkpoint does not fit, sizes do not
        fit the mesh, a batch does not fit the model, the loss is not finite, or disk or memory are
        full.
    """
    _check_numbers(
        1,
        train_steps=train_steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        eval_every=eval_every,
        max_to_keep=max_to_keep,
        keep_period=keep_period,
    )
    _check_numbers(0, eval_batches=eval_batches, seed=seed)
    folder = paths.local(model_dir)
    paths.check_output_folder(folder)
    if initial_model is not None:
        initial_model = str(paths.local(initial_model))
        paths.reject_overlap(native.split_path(initial_model)[0], folder, "initial checkpoint")
    if tokenizer is not None:
        tokenizer = str(paths.local(tokenizer))
    mesh = sharding.make_mesh(mesh_shape)
    train_step.check_batch_size(batches.batch_size, accumulation, mesh)
    rows = local_rows(mesh, batches.batch_size)
    feeding.check_ids(batches.batch(0, rows), 0, model_config)  # Before anything is written.
    if adaptation is not None and adaptation.source_model:
        paths.reject_overlap(adaptation.source_model, folder, "model of TARGET_LOSSES")
    if adaptation is not None and tokenizer is not None and adaptation.source_model:
        native.check_tokenizer(adaptation.source_model, tokenizer)
    if adaptation is not None and eval_every is None:
        raise UserError(
            f"{adaptation.mixture.name} moves its rates at evaluations; set EVAL_PERIOD."
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_full_disk(folder))
        stack.enter_context(hardware.explain_out_of_memory())
        stack.enter_context(_only_run(folder))
        abstract = train_step.abstract_state(model_config, optimizer, mesh)
        latest = native.latest_step(folder)
        _prepare_folder(folder, model_config, tokenizer, initial_model if latest is None else None)
        _write_notes(folder, abstract.params, extra_files or {})
        start = latest or 0
        saved: dict[str, Any] = {}
        if latest is None:
            state = _new_state(model_config, optimizer, mesh, seed, initial_model)
        else:
            state, saved = _restored_state(folder, abstract, latest, batches.batch_size)
        tokens = int(saved.get("tokens", 0))
        log = stack.enter_context(_Log(folder, start, train_steps, progress))
        if start >= train_steps:
            return log.result(start, tokens)
        checkpoints = stack.enter_context(native.Checkpoints(folder, max_to_keep, keep_period))

        step_fn = train_step.make_train_step(
            model_config, optimizer, mesh, accumulation=accumulation, seed=seed
        )
        fixed = batches.evaluation_batches(eval_batches, rows=rows) if eval_batches else ()
        evaluate = Evaluation(model_config, mesh, fixed, batches.batch_size)
        moving = None
        if adaptation is not None:
            adaptive = cast(AdaptiveBatches, batches)
            moving = MovingRates(
                adaptation, adaptive, model_config, mesh, eval_batches, saved.get("adaptation")
            )

        def moves_after(step: int) -> bool:
            return moving is not None and eval_every is not None and step % eval_every == 0

        peak = hardware.peak_flops()
        speed = _speed_meter(model_config, batches, peak)
        log.write("machine", start, {**hardware.describe(), **peak._asdict()})
        if start == 0:
            log.write("eval", 0, evaluate(state.params))
            if moving is not None:
                log.write(rates_plot.SPLIT, 0, moving.record(moving.measure(state.params)))

        pending: list[train_step.Metrics] = []
        untimed, clock = 0, time.perf_counter()
        steps = range(start, train_steps)
        for before, batch in feeding.on_devices(batches, steps, model_config, mesh, moves_after):
            state, step_metrics = step_fn(state, batch)
            pending.append(step_metrics)
            jax.block_until_ready(pending[-MAX_STEPS_IN_FLIGHT:][0])
            if before == start:  # This step was compiled; the clock runs from here.
                untimed, clock = 1, time.perf_counter()

            step = before + 1
            last = step == train_steps
            evaluates = last or (eval_every is not None and step % eval_every == 0)
            saves = last or step % checkpoint_every == 0
            if not (evaluates or saves or step % log_every == 0):
                continue

            done = jax.device_get(pending)
            seconds = time.perf_counter() - clock
            tokens += sum(int(m["tokens"]) for m in done)
            _check_finite(done, step, folder)
            log.write("speed", step, speed(done[untimed:], seconds))
            log.write("train", step, metrics.train_record(done, tokens))
            if evaluates:
                log.write("eval", step, evaluate(state.params))
            if moving is not None and moves_after(step):
                losses = moving.measure(state.params)
                moving.move(step, losses)
                log.write(rates_plot.SPLIT, step, moving.record(losses))
            if saves:
                # A checkpoint on the disk promises that the log up to its step is there, too.
                log.flush()
                data: dict[str, Any] = {"tokens": tokens, "batch_size": batches.batch_size}
                if moving is not None:
                    data["adaptation"] = moving.state()
                checkpoints.save(step, _as_dict(state), data)
            pending, untimed, clock = [], 0, time.perf_counter()
        if moving is not None and jax.process_index() == 0:
            log.flush()
            rates_plot.plot_rates(folder)
        return log.result(train_steps, tokens)


class _Log:
    """The files and the progress line of a run; the first process alone writes."""

    def __init__(self, folder: Path, start: int, train_steps: int, progress: bool) -> None:
        first = jax.process_index() == 0
        self._folder = folder
        self._latest: dict[str, Mapping[str, Any]] = {
            record["split"]: record
            for record in metrics.read(folder / metrics.METRICS)
            if start and record["step"] <= start
        }
        resumes = first and start < train_steps
        self._writer = metrics.MetricWriter(folder, start) if resumes else None
        self._progress = metrics.Progress(train_steps, start, folder.name, progress and resumes)

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record, unless there is nothing in it."""
        if values:
            self._latest[split] = values
            if self._writer is not None:
                self._writer.write(split, step, values)
        self._progress.update(step, self._latest)

    def flush(self) -> None:
        """Brings the files to the disk."""
        if self._writer is not None:
            self._writer.flush()

    def result(self, step: int, tokens: int) -> TrainResult:
        """What `train` returns."""
        return TrainResult(
            model_dir=self._folder,
            step=step,
            tokens=tokens,
            train_loss=self._latest.get("train", {}).get("loss"),
            eval_loss=self._latest.get("eval", {}).get("loss"),
            history=self._folder / metrics.METRICS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        if self._writer is not None:
            self._writer.close()


def _check_numbers(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


@contextlib.contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Within it no other run writes the folder; the first process asks on behalf of all."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(only_process(folder))
            except UserError as error:
                refusal = error
        refused = refusal is not None
        if jax.process_count() > 1:
            refused = bool(multihost_utils.broadcast_one_to_all(np.int32(refused)))
        if refused:
            raise refusal or UserError(f"another process is writing {folder}; wait for it.")
        yield


def _prepare_folder(
    folder: Path, config: OpenBAConfig, tokenizer: str | None, initial_model: str | None
) -> None:
    """Writes what a model folder holds besides checkpoints; a new run inherits some of it."""
    origin = folder if initial_model is None else native.split_path(initial_model)[0]
    if tokenizer is not None:
        native.check_tokenizer(origin, tokenizer)
    if initial_model is None:
        native.prepare(folder, config, None, tokenizer)
    else:
        initial = origin
        tokenizer_path = tokenizer or native.tokenizer_path(initial)
        native.prepare(folder, config, native.load_plan(initial), tokenizer_path)


def _write_notes(folder: Path, abstract_params: Any, extra_files: Mapping[str, str]) -> None:
    """Writes how parameters lie on the mesh, with a warning first, and the caller's files."""
    if jax.process_index() == 0:
        shardings = train_step.shardings_of(abstract_params)
        whole = sharding.large_unsharded(abstract_params, shardings)
        warning = f"NOT DIVIDED: {', '.join(whole)}\n\n" if whole else ""
        if whole:
            logging.warning("every device holds all of %s", ", ".join(whole))
        table = sharding.sharding_table(abstract_params, shardings)
        for name, text in {**extra_files, SHARDING: warning + table}.items():
            write_atomically(folder / name, text)


def _new_state(
    config: OpenBAConfig,
    optimizer: Optimizer,
    mesh: Mesh,
    seed: int,
    initial_model: str | None,
) -> train_step.TrainState:
    params = None
    if initial_model is not None:
        abstract = train_step.abstract_state(config, optimizer, mesh)
        shardings = train_step.shardings_of(abstract.params)
        params = native.restore_params(initial_model, config, shardings)
    return train_step.init_state(config, optimizer, mesh, seed=seed, params=params)


def _restored_state(
    folder: Path, abstract: train_step.TrainState, step: int, batch_size: int
) -> tuple[train_step.TrainState, dict[str, Any]]:
    """The state of a checkpoint, and the JSON that was saved with it."""
    restored, saved = native.restore_state(folder, _as_dict(abstract), step)
    began_with = saved.get("batch_size", batch_size)
    if began_with != batch_size:
        raise UserError(
            f"{folder} was trained with batches of {began_with}, and {batch_size} would repeat or "
            "leave out examples; resume with the same, or start a new folder from this one."
        )
    return train_step.TrainState(**restored), saved


def _as_dict(state: train_step.TrainState) -> dict[str, Any]:
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step}


def _speed_meter(
    config: OpenBAConfig, batches: feeding.Batches, peak: hardware.Peak
) -> Callable[[Sequence[Mapping[str, np.ndarray]], float], dict[str, float | None]]:
    """A function from the metrics of some steps, and their seconds, to a record of speed."""
    lengths = (batches.encoder_length, batches.decoder_length)
    flops = batches.batch_size * train_flops_per_example(config, *lengths)

    def speed(steps: Sequence[Mapping[str, np.ndarray]], seconds: float) -> dict[str, float | None]:
        if not steps:
            return {}
        tokens = sum(int(step["tokens"]) for step in steps)
        positions = batches.batch_size * sum(lengths)
        return metrics.speed(len(steps), seconds, tokens, positions, flops, peak)

    return speed


def _check_finite(steps: Sequence[Mapping[str, np.ndarray]], step: int, folder: Path) -> None:
    for name in ("loss_sum", "grad_norm"):
        if not all(math.isfinite(float(values[name])) for values in steps):
            newest = native.latest_step(folder)
            kept = "there is no checkpoint yet" if newest is None else f"step {newest} is saved"
            raise UserError(
                f"{name} is not finite in the steps before {step} of {folder}; lower the learning "
                f"rate or look at the data ({kept})."
            )
