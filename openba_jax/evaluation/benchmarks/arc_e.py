"""ARC, the easy set (Clark et al. 2018, arXiv:1803.05457)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "arc_e",
    Reading(
        "arc_e",
        options=(3, 4, 5),
        demo_splits=("train", "dev", "validation"),
        file_pattern="easy",
        other_pattern="challenge",
    ),
    {**original.ARC, "harness": harness.QUESTION},
    "ABCD_0",
    family="arc",
)
