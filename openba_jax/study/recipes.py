"""A recipe: what is cut, how it is chosen, and how it is recovered."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.models.axes import axis_of
from openba_jax.pruning.criteria.base import RANDOM
from openba_jax.pruning.stages import ELSE, Stage
from openba_jax.staged.models import ScheduleWindow
from openba_jax.staged.settings import Phase

ONE_COSINE, PER_STAGE = "one_cosine", "per_stage"
SCHEDULES = (ONE_COSINE, PER_STAGE)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way from the ancestor to a smaller model; tokens and seeds come from the study.

    Attributes:
      name: of the recipe.
      stages: what is cut, in order; their `recover_tokens` are the study's to give.
      method: how all stages choose; empty: as each stage says. Of several, a stage takes those for
        axes that it cuts.
      compensation: what all stages fit anew after a cut; empty: as each stage says.
      distillation: how all stages learn from a teacher; None: as each stage says.
      shares: share of the tokens that each stage recovers with, only their ratios count; empty:
        equal ones.
      schedule: of the learning rate: `one_cosine` over all stages, or one `per_stage`.
      recover: how this recipe trains; None: as the study says.
      from_scratch: train random parameters of the shape that the stages cut to, instead of what
        they leave of the ancestor's.
    """

    name: str
    stages: Sequence[Stage]
    method: str | Mapping[str, str] = ""
    compensation: str = ""
    distillation: Any = None
    shares: Sequence[float] = ()
    schedule: str = ONE_COSINE
    recover: Phase | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        """Checks what can be told without a model.

        Raises:
          UserError: the name cannot be one of a folder, there are no stages, stages share a name or
            bring tokens, shares do not fit, the schedule is unknown, or random parameters have a
            teacher.
        """
        if not self.name.replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"a recipe is called {self.name!r}; a name has letters, digits, - and _."
            )
        if not self.stages:
            raise UserError(f"the recipe {self.name} has no stages; give at least one Stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(
                f"stages of the recipe {self.name} need names of their own; found "
                f"{', '.join(names)}."
            )
        for stage in self.stages:
            if stage.recover_tokens:
                raise UserError(
                    f"stage {stage.name} of the recipe {self.name} has recover_tokens; a study "
                    "gives the tokens, and shares divide them."
                )
        shares = self.shares
        if shares and (len(shares) != len(names) or min(shares) < 0 or shares[-1] <= 0):
            raise UserError(
                f"the recipe {self.name} has the shares {list(shares)} for {len(names)} stages; "
                "give a number of at least 0 for each, and more for the last."
            )
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"the recipe {self.name} has the schedule {self.schedule!r}; known are "
                f"{' and '.join(SCHEDULES)}."
            )
        if self.from_scratch and self.distillation is not None:
            raise UserError(
                f"the recipe {self.name} trains from scratch and has a distillation; a study "
                "compares random parameters without a teacher."
            )

    def stages_for(self, seed: int) -> list[Stage]:
        """The stages as a seed runs them: with what the recipe says of all, and draws of the seed.

        Args:
          seed: of the cell.
        """
        stages = []
        for stage in self.stages:
            changes: dict[str, Any] = {"seed": stage.seed + seed}
            if self.method:
                changes["method"] = _methods_for(stage, self.method)
            if self.compensation:
                changes["compensation"] = self.compensation
            if self.distillation is not None:
                changes["distillation"] = self.distillation
            stages.append(dataclasses.replace(stage, **changes))
        return stages

    def steps_of_stages(self, total: int) -> list[int]:
        """The steps of each stage; together they are `total`."""
        shares = self.shares or [1.0] * len(self.stages)
        whole, ends, sum_so_far = sum(shares), [0], 0.0
        for share in shares:
            sum_so_far += share
            ends.append(round(total * sum_so_far / whole))
        return [end - start for start, end in itertools.pairwise(ends)]

    def windows(self, total: int) -> list[ScheduleWindow]:
        """Where each stage stands in the schedule of the learning rate."""
        windows, before = [], 0
        for part, steps in enumerate(self.steps_of_stages(total), start=1):
            if self.schedule == ONE_COSINE:
                windows.append(ScheduleWindow(total, before, part))
            else:
                windows.append(ScheduleWindow(max(1, steps), 0, part))
            before += steps
        return windows


def _methods_for(stage: Stage, method: str | Mapping[str, str]) -> str | dict[str, str]:
    """What a recipe says of the axes that a stage cuts."""
    if isinstance(method, str):
        return method
    cut = {axis_of(name) for name in stage.all_sizes}
    named = {name: how for name, how in method.items() if name != ELSE and axis_of(name) in cut}
    if ELSE in method and cut - set(map(axis_of, named)):
        named[ELSE] = method[ELSE]
    return named or RANDOM


def draws(stage: Stage) -> bool:
    """Whether a cut is another one with another seed: it is drawn, or looks at batches."""
    return RANDOM in stage.methods or stage.looks_at_text
