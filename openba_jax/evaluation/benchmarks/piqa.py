"""PIQA: everyday physics, two solutions (Bisk et al. 2019, arXiv:1911.11641)."""

from __future__ import annotations

from openba_jax.evaluation.prompting import harness, original
from openba_jax.evaluation.prompting.templated import TemplatedChoices
from openba_jax.evaluation.sources.questions import Reading

BENCHMARK = TemplatedChoices(
    "piqa",
    Reading("piqa", options=(2,), split="validation", demo_splits=("train",)),
    {**original.PIQA, "harness": harness.QUESTION},
    "ppl_10",
    family="piqa",
    original_demo_splits=("validation",),
)
