"""UL2's denoisers `ul2_*`, their mixtures `ul2` and `ul2_paper`, and plain `span_corruption`."""

from openba_jax.objectives.mixture import SPAN_CORRUPTION, UL2, UL2_PAPER
from tasks import token_store_tasks

for mixture in (UL2, UL2_PAPER, SPAN_CORRUPTION):
    token_store_tasks.add(mixture)
