"""LogiQA: logical reading comprehension (Liu et al. 2020, arXiv:2007.08124)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "logiqa",
    Reading("logiqa", options=(4,), split="test", demo_splits=("train",)),
    {"harness": harness.LOGIQA},
    "harness",
)
