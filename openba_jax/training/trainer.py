"""The training loop: restores, steps, evaluates, writes down, saves.

A run is a function of its arguments: killed or stopped at any moment and started again with the
same ones, it ends with the same parameters, bit for bit. Three things make it so: a batch is a
function of the step, dropout is a function of (seed, step), and every record of the log ends at a
fixed step. What a record has gathered by then is part of a checkpoint between two of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from absl import logging

from openba_jax import paths
from openba_jax.checkpoints import model_folder, training_state
from openba_jax.cli.progress import show_progress
from openba_jax.distillation.lessons import lesson_of_run
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.evaluation.loss import LossOnBatches, local_rows
from openba_jax.evaluation.while_training import BenchmarkEvaluator
from openba_jax.files import explain_full_disk
from openba_jax.language import told
from openba_jax.models.base import Model
from openba_jax.parallel import hardware, sharding
from openba_jax.training import beginning, feeding, needs, profiling, run_folder, train_step
from openba_jax.training.adaptation import Adaptation, AdaptiveBatches, MovingRates
from openba_jax.training.not_finite import Skips, check_finite, check_policy
from openba_jax.training.optimizer import Optimizer, OptimizerOf, optimizer_of
from openba_jax.training.preemption import StopSignals
from openba_jax.training.records import metrics, rates_plot
from openba_jax.training.records.log import RunLog, latest_records, speed_meter
from openba_jax.training.records.telemetry import Telemetry

_NO_TELEMETRY = Telemetry()

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
    model: Model,
    batches: feeding.Batches,
    optimizer: Optimizer | OptimizerOf,
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
    benchmarks: BenchmarkEvaluator | None = None,
    distillation: Distillation | None = None,
    param_dtype: str | None = None,
    not_finite: str = "stop",
    max_skipped: int = 10,
    offload: bool = False,
    telemetry: Telemetry = _NO_TELEMETRY,
    profile_steps: str | None = None,
    allow_changes: bool = False,
    fall_back: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Trains until `train_steps`, from the newest checkpoint in `model_dir` if there is one.

    On SIGTERM and Ctrl-C it finishes the step, saves and ends (`training.preemption`).

    Args:
      model_dir: the model folder; new, empty or of this run.
      model: the model.
      batches: where batches come from.
      optimizer: the optimizer, or what makes one for the model.
      train_steps: step at which the run ends, counted from its beginning.
      eval_batches: how many batches to evaluate on.
      initial_model: a model folder, or `DIR/checkpoints/<step>`, whose parameters (and pruning
        plan, and tokenizer unless given) a new run starts from; without it they are random.
      tokenizer: a tokenizer's file that becomes part of the model folder.
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
      benchmarks: what is asked every so many steps, or at every evaluation; besides, before the
        first step and after the last.
      distillation: the teacher, and what is minimised besides cross entropy; None: nothing.
      param_dtype: type in which parameters and moments are kept, `float32` or `bfloat16`. None: as
        the run has them, and `float32` for a new run, whatever the initial model has.
      not_finite: what to do about a step whose loss or gradient is not finite: `"stop"`, or
        `"skip"` it, which leaves parameters and moments as they are.
      max_skipped: steps that may be skipped in a row.
      offload: keep the state of the optimizer in the memory of the host.
      telemetry: what is recorded besides losses and speed, and where.
      profile_steps: `START:STOP`, steps to trace with JAX's profiler; None: none.
      allow_changes: let model, data, seed or evaluation batches differ from those of the run so
        far; the log records from which step.
      fall_back: where the newest checkpoint is damaged, set it aside and go on from the last whole
        one.
      progress: show a progress line on stderr.

    Raises:
      UserError: The folder holds something else, cannot be written, or overlaps with a model that
        is read; another process is training in it; the run differs from the one that is there; a
        checkpoint is damaged or does not fit; sizes do not fit the mesh; a batch does not fit the
        model; the student cannot learn from the teacher; a parameter or the loss is not finite;
        disk or memory are full, or memory would be.
      KeyboardInterrupt: Ctrl-C was pressed; the run is saved.
      SystemExit: SIGTERM came; the run is saved.
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
    _check_numbers(0, eval_batches=eval_batches, seed=seed, max_skipped=max_skipped)
    check_policy(not_finite)
    window = None if profile_steps is None else profiling.parse_window(profile_steps)
    profiling.check_window(window, train_steps)
    folder = paths.local(model_dir)
    paths.check_output_folder(folder)
    if initial_model is not None:
        initial_model = str(paths.local(initial_model))
        paths.reject_overlap(
            model_folder.split_path(initial_model)[0], folder, "initial checkpoint"
        )
    if tokenizer is not None:
        tokenizer = str(paths.local(tokenizer))
    mesh = sharding.make_mesh(mesh_shape)
    if offload:
        sharding.check_offload(mesh)
    train_step.check_batch_size(batches.batch_size, accumulation, mesh)
    rows = local_rows(mesh, batches.batch_size)
    first_batch = batches.batch(0, rows)
    feeding.check_ids(first_batch, 0, model)
    feeding.warn_of_lengths(batches, model)
    groups = feeding.groups_of(batches) if telemetry.task_losses else ()
    if adaptation is not None and adaptation.source_model:
        paths.reject_overlap(adaptation.source_model, folder, "model of TARGET_LOSSES")
    if adaptation is not None and tokenizer is not None and adaptation.source_model:
        model_folder.check_tokenizer(adaptation.source_model, tokenizer)
    if adaptation is not None and eval_every is None:
        raise UserError(
            f"{adaptation.mixture.name} moves its rates at evaluations; set EVAL_PERIOD."
        )
    if distillation is not None:
        paths.reject_overlap(
            model_folder.split_path(paths.local(distillation.teacher))[0], folder, "teacher"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(explain_full_disk(folder))
        stack.enter_context(hardware.explain_out_of_memory())
        signals = stack.enter_context(StopSignals())
        stack.enter_context(run_folder.only_run(folder))

        # First everything is checked, by reading all that is needed; then the folder is written.
        run = run_folder.check(
            folder,
            model,
            tokenizer=tokenizer,
            initial_model=initial_model,
            param_dtype=param_dtype,
            allow_changes=allow_changes,
        )
        model = run.model
        optimizer = optimizer_of(optimizer, model)
        loss: train_step.StepLoss = train_step.CROSS_ENTROPY
        constants: tuple[Any, ...] = ()
        distilled_from = None
        if distillation is not None:
            (loss, constants, distilled_from), batches = lesson_of_run(
                distillation,
                run.student,
                mesh,
                batches,
                first_batch,
                train_steps,
                adapts=adaptation is not None,
            )
        identity = {
            "data": dict(batches.identity()),
            "seed": seed,
            "evaluation_batches": eval_batches,
            "adaptation": None if adaptation is None else adaptation.identity(),
            "distillation": distilled_from,
        }
        abstract = train_step.abstract_state(model, optimizer, mesh, offload=offload)
        needs.check(model, abstract, first_batch, batches.batch_size, accumulation, mesh)
        begin = beginning.find(run, abstract, identity, allow_changes, fall_back)
        start, saved = begin.step, begin.saved
        carried: list[Mapping[str, Any]] = list(saved.get("pending", ()))
        tokens = int(saved.get("tokens", 0))
        if start >= train_steps:
            if start > train_steps:
                logging.warning("%s has %d steps, more than TRAIN_STEPS.", folder, start)
            seen = tokens + sum(int(step["tokens"]) for step in carried)
            return _result(folder, start, seen, latest_records(folder, start))
        getting_ready = stack.enter_context(contextlib.ExitStack())
        getting_ready.enter_context(
            show_progress(
                told(
                    "{name}: step {step}/{last}, getting ready",
                    **{"name": folder.name, "step": start, "last": train_steps},
                ),
                shown=progress and jax.process_index() == 0,
            )
        )
        state = begin.state
        if state is None:
            state = beginning.first_state(model, optimizer, mesh, seed, initial_model, offload)
        fixed = batches.evaluation_batches(eval_batches, rows=rows) if eval_batches else ()
        evaluate = LossOnBatches(model, mesh, fixed, batches.batch_size)
        moving = None
        if adaptation is not None:
            adaptive = cast(AdaptiveBatches, batches)
            moving = MovingRates(
                adaptation, adaptive, model, mesh, eval_batches, saved.get("adaptation")
            )
        first_eval = evaluate(state.params) if start == 0 else {}
        first_figures = benchmarks(model, state.params, mesh) if benchmarks and start == 0 else {}
        first_losses = moving.measure(state.params) if moving is not None and start == 0 else {}
        if signals.stop_after(start):  # A signal came while all this was read.
            signals.end(start)

        run_folder.write(run, abstract.params, extra_files or {}, begin.damaged)
        log = stack.enter_context(RunLog(folder, start, train_steps, progress, telemetry))
        checkpoints = stack.enter_context(
            training_state.Checkpoints(folder, max_to_keep, keep_period)
        )
        step_fn = train_step.make_train_step(
            model,
            optimizer,
            mesh,
            accumulation=accumulation,
            seed=seed,
            loss=loss,
            skip_not_finite=not_finite == "skip",
            gradient_norms=telemetry.gradient_norms,
            offload=offload,
        )
        profiler = stack.enter_context(profiling.Profiler(folder, window, start))
        skips = Skips(max_skipped, **saved.get("skipped", {}))
        newest = start if run.resumes else None  # Step of the newest checkpoint.

        def moves_after(step: int) -> bool:
            return moving is not None and eval_every is not None and step % eval_every == 0

        peak = hardware.peak_flops()
        speed = speed_meter(model, batches, peak)
        log.write("machine", start, {**hardware.describe(), **peak._asdict()})
        _record_changes(log, start, begin.changes)
        if start == 0:
            log.write("eval", 0, first_eval)
            log.write("benchmarks", 0, first_figures)
            if moving is not None:
                log.write(rates_plot.SPLIT, 0, moving.record(first_losses))

        stops = False
        pending: list[train_step.Metrics] = []
        untimed, clock = 0, time.perf_counter()
        steps = range(start, train_steps)
        feed = feeding.Feed(batches, steps, model, mesh, moves_after, grouped=bool(groups))
        for before, batch in feed:
            profiler.before(before, state.params)
            with jax.profiler.StepTraceAnnotation("train", step_num=before):
                state, step_metrics = step_fn(state, batch, *constants)
            profiler.after(before + 1, step_metrics)
            pending.append(step_metrics)
            jax.block_until_ready(pending[-MAX_STEPS_IN_FLIGHT:][0])
            if before == start:  # This step was compiled; the clock runs from here.
                getting_ready.close()
                untimed, clock = 1, time.perf_counter()
                feed.take_wait()

            step = before + 1
            last = step == train_steps
            evaluates = last or (eval_every is not None and step % eval_every == 0)
            asks = benchmarks is not None and (
                last or (evaluates if benchmarks.every is None else step % benchmarks.every == 0)
            )
            saves = last or step % checkpoint_every == 0
            stops = signals.stop_after(step)
            if not (stops or evaluates or asks or saves or step % log_every == 0):
                continue

            done = jax.device_get(pending)
            seconds, waited = time.perf_counter() - clock, feed.take_wait()
            check_finite(done, step, folder, newest)
            if evaluates or asks or saves or step % log_every == 0:
                interval = [*carried, *done]
                tokens += sum(int(m["tokens"]) for m in interval)
                record = metrics.train_record(interval, tokens, groups)
                if not_finite == "skip":
                    skips.count(interval, step, folder, newest)
                    record["skipped"] = skips.total
                log.write("speed", step, speed(done[untimed:], seconds, waited))
                log.write("train", step, record)
                carried = []
            else:  # Stopped within an interval, whose record another process will write.
                carried = [*carried, *map(_as_json, done)]
            if evaluates:
                log.write("eval", step, evaluate(state.params))
            if asks and benchmarks is not None:
                log.write("benchmarks", step, benchmarks(model, state.params, mesh))
            if moving is not None and moves_after(step):
                losses = moving.measure(state.params)
                moving.move(step, losses)
                log.write(rates_plot.SPLIT, step, moving.record(losses))
            if saves or stops:
                # A checkpoint on the disk promises that the log up to its step is there, too.
                log.flush()
                data: dict[str, Any] = {
                    "tokens": tokens,
                    "batch_size": batches.batch_size,
                    "identity": identity,
                }
                if moving is not None:
                    data["adaptation"] = moving.state()
                if not_finite == "skip":
                    data["skipped"] = skips.state()
                if carried:
                    data["pending"] = carried
                checkpoints.save(step, beginning.as_dict(state), data)
                newest = step
            if stops and not last:
                signals.end(step)
            pending, untimed, clock = [], 0, time.perf_counter()
        if moving is not None and jax.process_index() == 0:
            log.flush()
            rates_plot.plot_rates(folder)
        if stops:  # What comes after this run must not begin.
            signals.end(train_steps)
        return _result(folder, train_steps, tokens, log.latest)


def _check_numbers(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def _record_changes(log: RunLog, step: int, changes: run_folder.Changes) -> None:
    for name, (before, now) in changes.items():
        logging.warning("from step %d on, %s is %r; it was %r", step, name, now, before)
    log.write(metrics.CHANGES, step, {name: list(values) for name, values in changes.items()})


def _as_json(step: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The metrics of a step as numbers of Python, which JSON keeps exactly."""
    return {name: np.asarray(value).tolist() for name, value in step.items()}


def _result(
    folder: Path, step: int, tokens: int, latest: Mapping[str, Mapping[str, Any]]
) -> TrainResult:
    return TrainResult(
        model_dir=folder,
        step=step,
        tokens=tokens,
        train_loss=latest.get("train", {}).get("loss"),
        eval_loss=latest.get("eval", {}).get("loss"),
        history=folder / metrics.METRICS,
    )
