"""The stage file: what `openba-pipeline` is given to do what the search found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openba_jax.distillation.settings import Distillation
from openba_jax.errors import UserError
from openba_jax.paths import address_or_local
from openba_jax.pruning.stages import Stage
from openba_jax.staged.models import ANCESTOR

if TYPE_CHECKING:
    from openba_jax.search.run import Search

FILE = "stage.gin"


_OF_MACROS = ("mixture", "peak", "minimum", "tokens")
"""Fields of the recovery that macros stand for; its tokens are RECOVER_TOKENS."""


def check_distillation(distillation: Distillation) -> None:
    """Checks that a stage file can say how candidates are taught.

    Raises:
      UserError: the teacher is another model, or a weight follows a schedule.
    """
    if distillation.teacher != ANCESTOR:
        raise UserError(
            f"the teacher of the distillation is {distillation.teacher!r}; in a search it is "
            f"{ANCESTOR!r}."
        )
    for name in ("weight", "hidden_weight"):
        if callable(getattr(distillation, name)):
            raise UserError(
                f"the {name} of the distillation follows a schedule, which short recoveries would "
                "see the beginning of; give a number."
            )


def text(search: Search, stage: Stage, found: str, recover_tokens: int) -> str:
    """A gin file that includes the pipeline's and names ancestor, data, cut and recovery.

    Args:
      search: the search.
      stage: the cut.
      found: what was found, in a sentence.
      recover_tokens: positions to recover with.
    """
    data, recover = search.data, search.recover
    output = Path(search.output_dir).absolute()
    macros: dict[str, Any] = {
        "OUTPUT_DIR": f"{output}.pipeline",
        "ANCESTOR": _absolute(search.ancestor),
        "CORPUS": [_absolute(file) for file in data.corpus],
        "STORES": [_absolute(file) for file in data.stores],
        "INSTRUCTIONS": [_absolute(file) for file in data.instructions],
        "QUESTIONS": _absolute(data.questions) if data.questions else "",
        "MIXTURE": recover.mixture,
        "SIZES": dict(stage.sizes),
        "VOCABULARY": stage.vocabulary,
        "METHOD": stage.method if isinstance(stage.method, str) else dict(stage.method),
        "RECOVER_TOKENS": recover_tokens,
        "GROUP_SIZE": data.group_size,
        "INPUTS_LENGTH": data.encoder_length,
        "TARGETS_LENGTH": data.decoder_length,
        "BATCH_SIZE": data.batch_size,
        "HELD_OUT": data.held_out,
        "EVAL_STEPS": data.eval_batches,
        "EVAL_PERIOD": search.steps,
        "PEAK": recover.peak,
        "MINIMUM": recover.minimum,
        "SEED": search.seed,
        "MESH_SHAPE": tuple(search.mesh_shape),
    }
    bindings = {
        "cut/Stage.compensation": stage.compensation,
        "cut/Stage.calibration_batches": stage.calibration_batches,
    }
    for name, value in dataclasses.asdict(recover).items():
        if name not in _OF_MACROS:
            bindings[f"recover/Phase.{name}"] = value
    lines = [
        f"# What a search found: {found}",
        "#",
        f"# openba-pipeline --gin_file={output / FILE}",
        "#",
        "# RECOVER_TOKENS are those of the longest trial; a real recovery takes more.",
        "",
        "include 'gin/runs/native/compress.gin'",
        "",
        *(f"{name} = {value!r}" for name, value in macros.items()),
        "",
        *(f"{name} = {value!r}" for name, value in bindings.items()),
    ]
    if isinstance(stage.distillation, Distillation):
        fields = dataclasses.asdict(stage.distillation)
        lines += ["", "DISTILLATION = @Distillation()"]
        lines += [f"Distillation.{name} = {value!r}" for name, value in fields.items()]
    return "\n".join(lines) + "\n"


def _absolute(file: str) -> str:
    """A path that holds in any working folder; an address as it stands."""
    place = address_or_local(file)
    return place if "://" in place else str(Path(place).absolute())
