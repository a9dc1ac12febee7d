"""BoolQ: yes or no, after a passage (Clark et al. 2019, arXiv:1905.10044)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "boolq",
    Reading("boolq", options=(2,), split="validation", demo_splits=("train",)),
    {"harness": harness.BOOLQ},
    "harness",
)
