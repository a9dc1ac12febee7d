"""A study: recipes x tokens x seeds from one ancestor, in a folder that can be resumed."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.checkpoints import model_folder
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.files import write_atomically, write_json
from openba_jax.paths import check_output_folder, local, reject_overlap
from openba_jax.staged.ancestor import Ancestor, open_ancestor
from openba_jax.staged.checks import (
    check_data,
    check_mesh,
    check_mixtures,
    check_stages,
    check_teachers,
    digest_of_questions,
)
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import ANCESTOR
from openba_jax.staged.results import evaluations
from openba_jax.staged.settings import Data, Phase
from openba_jax.study import report
from openba_jax.study.cell_models import CellModels, figures_of, run_cell
from openba_jax.study.cells import Cell, Step, keys_of, steps_of
from openba_jax.study.recipes import Recipe
from openba_jax.study.summary import Results

SEEDS_APART = 10_000
"""Stages and calibration count up from the seed of the batches, and must not meet the next seed."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Recipes x tokens x seeds, each cell done once.

    Attributes:
      output_dir: folder of the study.
      ancestor: the model that all recipes start from, see `staged.run.Pipeline`.
      data: its text.
      recipes: what is compared, each with a name of its own.
      recover: how models are trained; its mixture is also what all are evaluated on.
      tokens: of recovery, padding included; several compare the recipes at each; 0 alone: models
        are cut and measured.
      seeds: of draws, order of batches and dropout; the ancestor is the same.
      baseline: the recipe that others are compared with; empty: the first.
      cells: names of the only cells to run; empty: all.
      keep_models: keep the models of cells that are finished; otherwise their figures are kept.
      mesh_shape: data, fsdp, model.
      log_every: steps.
      eval_every: steps between evaluations on the held-out batches.
      checkpoint_every: steps.
    """

    output_dir: str
    ancestor: str
    data: Data
    recipes: Sequence[Recipe]
    recover: Phase
    tokens: Sequence[int]
    seeds: Sequence[int]
    baseline: str = ""
    cells: Sequence[str] = ()
    keep_models: bool = False
    mesh_shape: Sequence[int] = (-1, 1, 1)
    log_every: int = 20
    eval_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Finds at once what would be found after hours, when its turn came.

        Raises:
          UserError: `output_dir` cannot be written or overlaps with the data or the ancestor;
            recipes, tokens or seeds are missing or not their own, or 0 tokens leave nothing to
            compare; a recipe cannot be cut or trained from the ancestor; a cell or the baseline is
            unknown; or the data cannot be used.
        """
        object.__setattr__(self, "output_dir", str(local(self.output_dir)))
        check_output_folder(self.output_dir)
        questions = [self.data.questions] if self.data.questions else []
        for file in (*self.data.corpus, *self.data.instructions, *self.data.stores, *questions):
            reject_overlap(file, self.output_dir, "data of the study")
        place, _ = model_folder.split_path(local(self.ancestor))
        reject_overlap(place, self.output_dir, "ancestor")
        if not self.data.corpus and not self.data.stores:
            raise UserError("there is no text; give CORPUS, or token stores of the ancestor.")
        names = [recipe.name for recipe in self.recipes]
        for what, values in (("recipes", names), ("tokens", self.tokens), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(
                    f"a study needs {what}, each of them once; it has "
                    f"{', '.join(map(str, values)) or 'none'}."
                )
        if self.baseline and self.baseline not in names:
            raise UserError(
                f"the baseline {self.baseline!r} is no recipe; there are {', '.join(names)}."
            )
        for name, least, values in (
            ("tokens", 0, self.tokens),
            ("seeds", 0, self.seeds),
            ("eval_every", 1, [self.eval_every]),
        ):
            if min(values) < least:
                raise UserError(f"{name} is {min(values)}; it must be at least {least}.")
        by_steps: dict[int, int] = {}
        for tokens in self.tokens:
            if (steps := self.data.steps(tokens)) in by_steps:
                raise UserError(
                    f"{by_steps[steps]} and {tokens} tokens are both {steps} steps of "
                    f"{self.data.tokens(1)}; give one of them."
                )
            by_steps[steps] = tokens
        if 0 in self.tokens and len(self.tokens) > 1:
            raise UserError(
                "tokens are 0, which only cuts, beside "
                f"{max(self.tokens)}; give each a folder of its own."
            )
        mixtures = self._check_recipes()
        known = [cell.name for cell in self._all_cells]
        if unknown := [name for name in self.cells if name not in known]:
            raise UserError(
                f"the study has no cell {unknown[0]}; they are called RECIPE.TOKENS.SEED, such as "
                f"{known[0]}."
            )
        check_data(self.data, mixtures)
        check_mesh(self.mesh_shape, self.data.batch_size)

    def _check_recipes(self) -> set[str]:
        """Checks that all recipes can be cut and trained from the ancestor.

        Returns:
          The mixtures that they train and are evaluated on.

        Raises:
          UserError: one cannot.
        """
        opened, stored = self._opened, bool(self.data.stores)
        pieces = opened.vocabulary.piece_count
        mixtures = {self.recover.mixture}
        for recipe in self.recipes:
            check_stages(recipe.stages_for(0), opened.plan, pieces)
            check_teachers(recipe.stages_for(0), opened.model.config)
            mixtures.add((recipe.recover or self.recover).mixture)
            mixtures |= {stage.recover_objective for stage in recipe.stages} - {""}
            if stored and any(stage.vocabulary is not None for stage in recipe.stages):
                raise UserError(
                    f"the store {self.data.stores[0]} cannot be had in the smaller vocabulary of "
                    f"the recipe {recipe.name}; give the corpus instead of stores."
                )
            if 0 in self.tokens and recipe.from_scratch:
                raise UserError(
                    f"tokens are 0, and the recipe {recipe.name} starts from random parameters, "
                    "which only training tells from others; leave the recipe out, or give tokens."
                )
            for tokens in filter(None, self.tokens):
                if recipe.steps_of_stages(self.data.steps(tokens))[-1] < 1:
                    raise UserError(
                        f"{tokens} tokens leave no step to the last stage of the recipe "
                        f"{recipe.name}; give more."
                    )
        check_mixtures(mixtures, opened.model.config)
        return mixtures

    @functools.cached_property
    def _opened(self) -> Ancestor:
        """The ancestor."""
        return open_ancestor(self.ancestor)

    @functools.cached_property
    def _all_cells(self) -> list[Cell]:
        """All cells; one seed after the other, so that what is done compares all recipes."""
        return [
            Cell(recipe, tokens, seed)
            for seed in self.seeds
            for tokens in self.tokens
            for recipe in self.recipes
        ]

    @property
    def _wanted(self) -> list[Cell]:
        """The cells to run."""
        return [cell for cell in self._all_cells if not self.cells or cell.name in self.cells]

    def shared(self) -> str:
        """What all cells of a folder have in common, JSON with a line for each setting.

        Recipes, tokens and seeds are not in it: a folder can get more of them.
        """
        shared = {
            "ancestor": [str(self._opened.path), self._opened.identity()],
            "data": dataclasses.asdict(self.data),
            "questions": digest_of_questions(self.data),
            "evaluated_on": self.recover.mixture,
            "mesh_shape": list(self.mesh_shape),
        }
        return json.dumps(shared, indent=2, ensure_ascii=False) + "\n"

    def run(self, settings: str = "") -> str:
        """Does what is not done yet, and writes the report after every cell.

        Args:
          settings: gin text that makes this study, from which each cell gets a gin file of its own.

        Returns:
          The report as text.

        Raises:
          UserError: something in the settings or files cannot be used, or a finished cell was made
            with other settings.
        """
        cells = self._wanted
        planned = {cell.name: self._plan(cell) for cell in cells}
        done = {
            cell.name: found
            for cell in cells
            if (found := self._read(cell, planned[cell.name][1])) is not None
        }
        self._mention_others()
        if settings:
            write_atomically(Path(self.output_dir) / "study.gin", f"{settings.rstrip()}\n")
            for cell in cells:
                if cell.name not in done:
                    text = cell_settings(settings, cell.name)
                    write_atomically(self._file(cell, "gin"), text)
        ancestor = self._measure_ancestor()
        self._cut_first(cells, planned, done)
        left = sum(max(cell.tokens, 1) for cell in cells if cell.name not in done)
        progress = Progress(left, len(cells))
        text = self._report(ancestor, done)
        for number, cell in enumerate(cells, start=1):
            if cell.name in done:
                continue
            steps, keys = planned[cell.name]
            models = self._models(cell, keys, progress.say(number))
            figures = {**run_cell(cell, steps, models), "made_by": keys}
            write_json(self._file(cell, "json"), figures)
            done[cell.name] = figures
            progress.finished(number, cell.name, max(cell.tokens, 1), figures["loss"])
            if not self.keep_models:
                self._remove(keys, [planned[c.name][1] for c in cells if c.name not in done])
            text = self._report(ancestor, done)
        return text

    def _cut_first(
        self,
        cells: Sequence[Cell],
        planned: Mapping[str, tuple[list[Step], dict[str, str]]],
        done: Mapping[str, Any],
    ) -> None:
        """Cuts the ancestor for the first seed: what cannot be cut so is found before hours pass.

        Raises:
          UserError: a criterion cannot score what a stage cuts, say.
        """
        for cell in cells:
            if cell.seed == cells[0].seed and cell.name not in done:
                steps, keys = planned[cell.name]
                models = self._models(cell, keys, _line)
                models.prune(steps[0].parent, steps[0].stage, steps[0].window.part)

    def _plan(self, cell: Cell) -> tuple[list[Step], dict[str, str]]:
        """What a cell does, and the keys of its models."""
        data = self.data
        steps = steps_of(cell, data.steps(cell.tokens), data.tokens(1))
        return steps, keys_of(cell, steps, self._phase(cell), self.eval_every)

    def _phase(self, cell: Cell) -> Phase:
        return cell.recipe.recover or self.recover

    def _models(
        self, cell: Cell | None, keys: Mapping[str, str], say: Callable[[str], None]
    ) -> CellModels:
        """What makes the models of a cell; of none: the ancestor alone."""
        seed = 0 if cell is None else cell.seed
        corpora = Corpora(Path(self.output_dir) / "data", self.data, seed * SEEDS_APART)
        corpora.adopt_tokenizer(self._opened.tokenizer)
        return CellModels(
            root=Path(self.output_dir),
            corpora=corpora,
            ancestor=self._opened,
            pretrain=None,
            recover=self.recover if cell is None else self._phase(cell),
            tune=None,
            mesh_shape=tuple(self.mesh_shape),
            seed=seed,
            log_every=self.log_every,
            eval_every=self.eval_every,
            checkpoint_every=self.checkpoint_every,
            say=say,
            evaluated_on=self.recover.mixture,
            keys=keys,
        )

    def _measure_ancestor(self) -> dict[str, Any]:
        """The figures of the ancestor, measured once; finds what data the training would lack."""
        path = Path(self.output_dir) / "ancestor.json"
        models = self._models(None, {ANCESTOR: ANCESTOR}, _line)
        vocabulary = open_vocabulary(models.corpora.tokenizer)
        mixtures = {self._phase(cell).mixture for cell in self._all_cells}
        for mixture in sorted(mixtures | {self.recover.mixture}):
            batches = models.corpora.batches(vocabulary, mixture, 0, self.recover.mixture)
            batches.evaluation_batches(1)
        models.take_ancestor()
        if not path.exists():
            loss = evaluations(models, ANCESTOR)[-1]["loss"]
            write_json(path, {"loss": loss, **figures_of(models, ANCESTOR)})
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _file(self, cell: Cell, kind: str) -> Path:
        return Path(self.output_dir) / "cells" / f"{cell.name}.{kind}"

    def _read(self, cell: Cell, keys: Mapping[str, str]) -> dict[str, Any] | None:
        """The figures of a finished cell.

        Raises:
          UserError: other settings made them.
        """
        path = self._file(cell, "json")
        if not path.exists():
            return None
        figures = dict(json.loads(path.read_text(encoding="utf-8")))
        if figures.get("made_by") != keys:
            raise UserError(
                f"{path} was made with other settings than the recipe {cell.recipe.name} has now; "
                "name another folder, or repeat the settings (they are in the .gin beside it)."
            )
        return figures

    def _mention_others(self) -> None:
        """Says which finished cells the report leaves out."""
        wanted = {cell.name for cell in self._wanted}
        found = sorted(path.stem for path in (Path(self.output_dir) / "cells").glob("*.json"))
        if others := [name for name in found if name not in wanted]:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            _line(
                f"not in the report, since no recipe, tokens or seed asks for it: {others[0]}{more}"
            )

    def _remove(self, keys: Mapping[str, str], needed: Sequence[Mapping[str, str]]) -> None:
        """Removes models of a finished cell that no cell needs any more."""
        kept = {ANCESTOR, *(key for each in needed for key in each.values())}
        for key in set(keys.values()) - kept:
            shutil.rmtree(Path(self.output_dir) / "models" / key, ignore_errors=True)

    def _report(self, ancestor: Mapping[str, Any], done: Mapping[str, Mapping[str, Any]]) -> str:
        missing = [cell.name for cell in self._wanted if cell.name not in done]
        names = [recipe.name for recipe in self.recipes]
        return report.write(
            Path(self.output_dir),
            Results(
                ancestor,
                [done[cell.name] for cell in self._wanted if cell.name in done],
                names,
                self.baseline or names[0],
                missing,
            ),
        )


def cell_settings(settings: str, name: str) -> str:
    """The gin file of one cell, from that of its study."""
    lines = [
        "# One cell of a study:",
        "#",
        "# openba-study --gin_file=THIS --gin.OUTPUT_DIR=\"'runs/again'\"",
        "",
        settings.rstrip(),
        "",
        "OUTPUT_DIR = %gin.REQUIRED",
        "Study.output_dir = %OUTPUT_DIR",
        f"Study.cells = [{name!r}]",
    ]
    return "\n".join(lines) + "\n"


class Progress:
    """Lines with the number of the cell and the time that is left."""

    def __init__(self, tokens: int, cells: int) -> None:
        """Starts the clock: so many tokens are to come, at least one for each cell."""
        self._began, self._left, self._done, self._cells = time.monotonic(), tokens, 0, cells

    def say(self, number: int) -> Callable[[str], None]:
        """What shows the steps of a cell."""
        return lambda text: _line(f"[cell {number}/{self._cells}] {text}")

    def finished(self, number: int, name: str, tokens: int, loss: float) -> None:
        """Shows what a cell ended with."""
        self._done, self._left = self._done + tokens, self._left - tokens
        seconds = (time.monotonic() - self._began) * self._left / self._done
        left = f", {_time(seconds)} left" if self._left else ""
        _line(f"[cell {number}/{self._cells}] {name}: loss {loss:.4f}{left}")


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
