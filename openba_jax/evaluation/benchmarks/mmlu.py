"""MMLU: 57 subjects in English (Hendrycks et al. 2020, arXiv:2009.03300)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original, subjects_mmlu
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "mmlu",
    Reading("mmlu", options=(4,)),
    {**original.MMLU, "harness": harness.MMLU},
    "ABCD_5",
    family="mmlu",
    subject_categories=subjects_mmlu.CATEGORIES,
    original_demo_splits=("validation",),
)
