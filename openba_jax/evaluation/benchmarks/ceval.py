"""C-Eval: 52 subjects in Chinese (Huang et al. 2023, arXiv:2305.08322); its validation split."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original, subjects_ceval
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "ceval",
    Reading("ceval", options=(4,), split="validation"),
    {**original.CHINESE, "harness": harness.CHINESE},
    "ppl_5",
    family="ceval",
    subject_names=subjects_ceval.NAMES,
    subject_categories=subjects_ceval.CATEGORIES,
)
