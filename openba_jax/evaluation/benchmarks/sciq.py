"""SciQ: science exams with a supporting text (Welbl et al. 2017, arXiv:1707.06209)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "sciq",
    Reading("sciq", options=(4,), split="test", demo_splits=("train",)),
    {"harness": harness.SCIQ},
    "harness",
)
