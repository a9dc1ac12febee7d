"""CMMLU: 67 subjects in Chinese (Li et al. 2023, arXiv:2306.09212)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original, subjects_cmmlu
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "cmmlu",
    Reading("cmmlu", options=(4,)),
    {**original.CMMLU, "harness": harness.CHINESE},
    "ppl_5",
    family="cmmlu",
    subject_names=subjects_cmmlu.NAMES,
    subject_categories=subjects_cmmlu.CATEGORIES,
)
