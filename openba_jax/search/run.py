"""A search: shapes within a budget, ranked by scores, tried by short recoveries."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.checkpoints import model_folder
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.files import write_atomically, write_json
from openba_jax.models.axes import LAYERS, VOCAB, axis_of
from openba_jax.models.base import Model
from openba_jax.paths import check_output_folder, local, reject_overlap
from openba_jax.pruning.compensation.refit import check_compensation
from openba_jax.pruning.criteria.base import RANDOM, Scores, check_keys, score_shape
from openba_jax.pruning.selection import chosen
from openba_jax.pruning.stages import NO_COMPENSATION, Stage, check_method
from openba_jax.pruning.vocabulary import pieces_of, prune_vocabulary, sum_counts
from openba_jax.search import report, stage_file
from openba_jax.search.budget import MILLISECONDS, Budget
from openba_jax.search.curves import measured_curves
from openba_jax.search.damage import (
    ESTIMATES,
    IN_NATS,
    MEASURED,
    SCORES,
    damage_by_curves,
    damage_by_scores,
)
from openba_jax.search.grid import Grid, grid_of
from openba_jax.search.halving import halve, schedule
from openba_jax.search.report import Checked, Results
from openba_jax.search.scoring import scores_of_ancestor, subject_of
from openba_jax.search.shapes import Shape, Shapes, figures, stage_of
from openba_jax.search.speed import milliseconds_per_token
from openba_jax.staged.ancestor import Ancestor, open_ancestor
from openba_jax.staged.checks import check_data, check_mesh, check_mixtures, check_stages
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import ANCESTOR, Models, ScheduleWindow, pruned_name
from openba_jax.staged.results import evaluations
from openba_jax.staged.settings import Data, Phase

PART = 1
"""All candidates are trained on the batches of a pipeline's first stage."""

_OF_ROWS = "taylor"
"""What rows of the vocabulary are estimated by; which of them stay is a matter of frequency."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What an ancestor should be cut to.

    Attributes:
      output_dir: folder of the search.
      ancestor: the model to cut, see `staged.run.Pipeline`.
      data: its text.
      budget: what the result may cost.
      recover: how candidates are trained; its mixture is also what they are measured on.
      axes: what may move, see `grid.grid_of`; empty: all but the vocabulary.
      multiples: of which numbers sizes are, by name or key of an axis.
      vocabularies: numbers of pieces that may be kept; empty: the vocabulary stays.
      width_method: criterion that widths are cut by.
      layer_method: that of layers.
      estimate: of what a shape loses, one of `damage.ESTIMATES`.
      calibration_batches: batches that criteria, and a compensation, look at.
      candidates: shapes that are tried.
      steps: of training of the first round; each further round has twice as many, counted from the
        cut.
      compensation: what is fitted anew after each cut.
      distillation: how candidates learn from the ancestor; None: from text alone.
      measure_speed: measure milliseconds per token of all candidates whatever the budget is.
      keep_models: keep the models of all candidates; otherwise that of the best.
      mesh_shape: data, fsdp, model.
      seed: of batches and dropout.
      log_every: steps.
      checkpoint_every: steps.
    """

    output_dir: str
    ancestor: str
    data: Data
    budget: Budget
    recover: Phase
    axes: Sequence[str] = ()
    multiples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabularies: Sequence[int] = ()
    width_method: str = "taylor"
    layer_method: str = "leave_one_out"
    estimate: str = MEASURED
    calibration_batches: int = 8
    candidates: int = 8
    steps: int = 25
    compensation: str = NO_COMPENSATION
    distillation: Any = None
    measure_speed: bool = False
    keep_models: bool = False
    mesh_shape: Sequence[int] = (-1, 1, 1)
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Finds at once what would be found after hours, when its turn came.

        Raises:
          UserError: `output_dir` cannot be written or overlaps with the data or the ancestor; an
            axis, a multiple, a criterion, a compensation, a mixture or a number cannot be used; the
            ancestor is within the budget, or no shape is; or the data cannot be used.
        """
        object.__setattr__(self, "output_dir", str(local(self.output_dir)))
        check_output_folder(self.output_dir)
        questions = [self.data.questions] if self.data.questions else []
        for file in (*self.data.corpus, *self.data.instructions, *self.data.stores, *questions):
            reject_overlap(file, self.output_dir, "data of the search")
        place, _ = model_folder.split_path(local(self.ancestor))
        reject_overlap(place, self.output_dir, "ancestor")
        if not self.data.corpus and not self.data.stores:
            raise UserError("there is no text; give CORPUS, or token stores of the ancestor.")
        for name, least in (("candidates", 1), ("steps", 1), ("calibration_batches", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        self._check_methods()
        check_compensation(self.compensation)
        if self.distillation is not None:
            stage_file.check_distillation(self.distillation)
        self._check_vocabularies()
        check_mixtures({self.recover.mixture}, self._opened.model.config)
        check_data(self.data, {self.recover.mixture})
        check_mesh(self.mesh_shape, self.data.batch_size)
        grid = grid_of(self._opened.model, self.axes, self.multiples)
        if not grid.moving and not self.vocabularies:
            raise UserError("nothing can move; name other axes, or smaller multiples.")
        if self.budget.kind == MILLISECONDS:
            return
        limit = self.budget.limit_for(self.budget.cost(self._opened.model, self.data))
        if not self.vocabularies:
            # Scores say which shapes are best, and not which there are.
            nothing = {key: np.zeros(score_shape(grid.axes, key)) for key in grid.moving}
            damage = np.zeros(grid.shape)
            Shapes(grid, nothing, damage, self.budget, self.data).check(limit)

    def _check_methods(self) -> None:
        """Checks how shapes are estimated and cut.

        Raises:
          UserError: an estimate or a criterion is unknown, a criterion draws or does not score what
            may move, or scores are to be added that are no changes of the loss.
        """
        if self.estimate not in ESTIMATES:
            raise UserError(
                f"no estimate is called {self.estimate!r}; known are {' and '.join(ESTIMATES)}."
            )
        for method in (self.width_method, self.layer_method):
            check_method(method)
            if method == RANDOM:
                raise UserError("a search cuts by scores, and random has none; choose a criterion.")
            if self.estimate == SCORES and method not in IN_NATS:
                raise UserError(
                    f"scores by {method} are no changes of the loss and cannot be added; choose "
                    f"{' or '.join(IN_NATS)}, or the estimate {MEASURED}."
                )
        moved = chosen(self._opened.model.axes, self.axes)
        for layers, method in ((True, self.layer_method), (False, self.width_method)):
            check_keys(method, [key for key in moved if (axis_of(key) == LAYERS) == layers])

    def _check_vocabularies(self) -> None:
        """Checks that the vocabulary can be cut to what is given, with all else.

        Raises:
          UserError: it cannot.
        """
        if self.vocabularies and self.data.stores:
            raise UserError(
                f"the store {self.data.stores[0]} cannot be had in a smaller vocabulary; give the "
                "corpus instead of stores."
            )
        if self.vocabularies and self.compensation != NO_COMPENSATION:
            raise UserError(
                f"the compensation {self.compensation} is fitted on text, and a model of a smaller "
                "vocabulary cannot read the text of the ancestor's; leave out one of the two."
            )
        for pieces in self.vocabularies:
            stage = Stage(f"vocabulary_{pieces}", vocabulary=pieces)
            check_stages([stage], self._opened.plan, self._opened.vocabulary.piece_count)

    @functools.cached_property
    def _opened(self) -> Ancestor:
        """The ancestor."""
        return open_ancestor(self.ancestor)

    def settings(self, text: str) -> str:
        """What the folder keeps of the settings: the gin text, and which ancestor."""
        return f"{text.rstrip()}\n\n# ancestor: {self._opened.path}, {self._opened.identity()}\n"

    def run(self) -> str:
        """Does what is not done yet, and writes report and stage file.

        Returns:
          The report as text.

        Raises:
          UserError: something in the settings or files cannot be used, or no shape is within the
            budget.
        """
        root = Path(self.output_dir)
        models = self._models()
        vocabulary = open_vocabulary(models.corpora.tokenizer)
        models.corpora.batches(vocabulary, self.recover.mixture).evaluation_batches(1)
        models.take_ancestor()
        model = models.model(ANCESTOR)
        kept_rows, pieces = self._kept_rows(models)
        grid = grid_of(model, self.axes, self.multiples, tuple(kept_rows))
        # Before what takes long.
        if self.budget.kind == MILLISECONDS:
            cost = self._milliseconds(model, grid.text([n - 1 for n in grid.shape]))
        else:
            cost = self.budget.cost(model, self.data)
        limit = self.budget.limit_for(cost)
        scores, damage = self._estimates(models, grid, kept_rows)
        shapes = Shapes(
            grid,
            scores,
            damage,
            self.budget,
            self.data,
            self._milliseconds if self.budget.kind == MILLISECONDS else None,
        )
        whole = shapes.at([n - 1 for n in grid.shape])
        _line(f"{shapes.damage.size:,} shapes; looking for {self.candidates}")
        proposed = shapes.propose(limit, self.candidates)
        named = {f"shape_{number}": shape for number, shape in enumerate(proposed, start=1)}
        stages = {
            name: self.stage(name, shape, pieces.get(shape.vocabulary))
            for name, shape in named.items()
        }
        checked = self._halve(models, named, stages)
        results = Results(
            budget=self.budget,
            limit=limit,
            shapes=shapes.damage.size,
            ancestor=self._checked(whole, {"0": evaluations(models, ANCESTOR)[-1]["loss"]}),
            checked=checked,
            estimate=self.estimate,
        )
        best = results.best
        write_atomically(
            root / stage_file.FILE,
            stage_file.text(
                self,
                stages[best],
                f"{best}, {named[best].text}: {self.budget.show(named[best].cost)}.",
                self.data.tokens(self._longest(len(named))),
            ),
        )
        return report.write(root, results)

    def _models(self) -> Models:
        """What makes the models of the search."""
        root = Path(self.output_dir)
        corpora = Corpora(root / "data", self.data, self.seed)
        corpora.adopt_tokenizer(self._opened.tokenizer)
        return Models(
            root=root,
            corpora=corpora,
            ancestor=self._opened,
            pretrain=None,
            recover=self.recover,
            tune=None,
            mesh_shape=tuple(self.mesh_shape),
            seed=self.seed,
            log_every=self.log_every,
            eval_every=self.steps,
            checkpoint_every=self.checkpoint_every,
            say=_line,
            scores=root / "scores.npz",
        )

    def _kept_rows(self, models: Models) -> tuple[dict[int, Sequence[int]], dict[int, int]]:
        """Rows that smaller vocabularies keep, and their pieces, by the number of rows."""
        if not self.vocabularies:
            return {}, {}
        vocabulary = models.vocabulary(ANCESTOR)
        tokenizer = vocabulary.path
        counts = sum_counts(models.corpora.token_counts(vocabulary), pieces_of(tokenizer))
        whole = models.model(ANCESTOR).axes.sizes[VOCAB]
        rows: dict[int, Sequence[int]] = {}
        pieces: dict[int, int] = {}
        for size in sorted(self.vocabularies):
            kept = prune_vocabulary(tokenizer, counts, size).rows
            if len(kept) < whole:
                rows[len(kept)], pieces[len(kept)] = kept, size
        return rows, pieces

    def _estimates(
        self, models: Models, grid: Grid, kept_rows: Mapping[int, Sequence[int]]
    ) -> tuple[Scores, np.ndarray]:
        """Scores of all that moves, and the estimate of every shape."""
        assert models.scores is not None
        subject = subject_of(models, self.calibration_batches, PART)
        methods = {
            key: self.layer_method if axis_of(key) == LAYERS else self.width_method
            for key in grid.moving
        }
        if VOCAB in methods:
            methods[VOCAB] = _OF_ROWS
        scores = scores_of_ancestor(models, subject, methods, models.scores)
        if self.estimate == SCORES:
            return scores, damage_by_scores(grid, scores, kept_rows)
        path = models.root / "curves.json"
        curves = measured_curves(grid, scores, subject, path, models.say)
        return scores, damage_by_curves(grid, curves, scores, kept_rows)

    def stage(self, name: str, shape: Shape, pieces: int | None) -> Stage:
        """The cut to a shape, without tokens to recover with.

        Args:
          name: of the stage.
          shape: the shape.
          pieces: of the vocabulary; None: it stays.
        """
        stage = stage_of(
            name,
            shape,
            width_method=self.width_method,
            layer_method=self.layer_method,
            compensation=self.compensation,
            calibration_batches=self.calibration_batches,
            pieces=pieces,
        )
        if self.distillation is None:
            return stage
        taught = dataclasses.replace(self.distillation, teacher=ANCESTOR)
        assert isinstance(taught, Distillation)
        return dataclasses.replace(stage, distillation=taught)

    def _longest(self, count: int) -> int:
        """Steps of the longest training."""
        return schedule(count, self.steps)[-1][1]

    def _halve(
        self, models: Models, named: Mapping[str, Shape], stages: Mapping[str, Stage]
    ) -> list[Checked]:
        """Cuts, trains and halves; returns all that took part, in the order of their estimates."""
        window = ScheduleWindow(self._longest(len(named)), part=PART)
        rounds = schedule(len(named), self.steps)
        progress = _Progress(rounds)

        def train(name: str, until: int) -> float:
            figures = self._read(name)
            if str(until) not in figures:
                stage = dataclasses.replace(stages[name], recover_tokens=self.data.tokens(until))
                models.prune_and_recover(ANCESTOR, stage, window)
                factor = _per_token_of_ancestor(models, name)
                figures = {
                    str(record["step"]): record["loss"] * factor
                    for record in evaluations(models, name)
                }
                write_json(self._file(name), figures)
            progress.done(name, until, figures[str(until)])
            return figures[str(until)]

        def leave(name: str) -> None:
            if not self.keep_models:
                for each in (name, pruned_name(name)):
                    shutil.rmtree(Path(self.output_dir) / "models" / each, ignore_errors=True)

        found = halve(list(named), self.steps, train, leave)
        last = found[-1].losses
        for name in last:
            if name != min(last, key=lambda name: last[name]):
                leave(name)
        return [self._checked(shape, self._read(name), name) for name, shape in named.items()]

    def _checked(self, shape: Shape, losses: Mapping[str, float], name: str = ANCESTOR) -> Checked:
        """The figures of a shape."""
        measured = self.measure_speed or self.budget.kind == MILLISECONDS
        return Checked(
            name=name,
            values=shape.values,
            damage=shape.damage,
            cost=shape.cost,
            milliseconds_per_token=self._milliseconds(shape.model, shape.text)
            if measured
            else None,
            losses={int(step): loss for step, loss in losses.items()},
            **figures(shape, self.budget, self.data),
        )

    def _milliseconds(self, model: Model, text: str) -> float:
        """The time of a shape, measured once."""
        path = Path(self.output_dir) / "times.json"
        times = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if text not in times:
            times[text] = milliseconds_per_token(
                model, self.data.encoder_length, self.data.decoder_length, self.mesh_shape
            )
            _line(f"{text}: {times[text]:.3g} milliseconds per token")
            write_json(path, times)
        return float(times[text])

    def _file(self, name: str) -> Path:
        return Path(self.output_dir) / "candidates" / f"{name}.json"

    def _read(self, name: str) -> dict[str, float]:
        """Losses of a candidate by step, as far as it was trained."""
        path = self._file(name)
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _per_token_of_ancestor(models: Models, name: str) -> float:
    """What turns nats per token of a model into nats per token of its ancestor.

    A smaller vocabulary cuts the same text into more tokens.
    """
    whole, own = models.vocabulary(ANCESTOR), models.vocabulary(name)
    if own.fingerprint == whole.fingerprint:
        return 1.0
    counts = [sum_counts(models.corpora.token_counts(v)).sum() for v in (own, whole)]
    return float(counts[0] / counts[1])


class _Progress:
    """Lines with the number of the trial and the time that is left."""

    def __init__(self, rounds: Sequence[tuple[int, int]]) -> None:
        """Starts the clock."""
        self._trials = sum(count for count, _ in rounds)
        before = 0
        self._steps: list[int] = []
        for count, until in rounds:
            self._steps += [until - before] * count
            before = until
        self._began, self._number = time.monotonic(), 0

    def done(self, name: str, steps: int, loss: float) -> None:
        """Shows what a trial ended with."""
        self._number += 1
        share = sum(self._steps[: self._number]) / sum(self._steps)
        left = (time.monotonic() - self._began) * (1 - share) / share
        more = f", {left / 60:.0f} minutes left" if left >= 60 else ""
        _line(f"[{self._number}/{self._trials}] {name} after {steps} steps: loss {loss:.4f}{more}")


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
