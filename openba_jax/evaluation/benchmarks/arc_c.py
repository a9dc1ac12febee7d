"""ARC, the challenge set (Clark et al. 2018, arXiv:1803.05457)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "arc_c",
    Reading(
        "arc_c",
        options=(3, 4, 5),
        demo_splits=("train", "dev", "validation"),
        file_pattern="challenge",
        other_pattern="easy",
    ),
    {**original.ARC, "harness": harness.QUESTION},
    "ABCD_0",
    family="arc",
)
