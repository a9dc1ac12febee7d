"""`d_ul2_code` and `d_ul2_paper`, at the rates that they start with: seqio's rates do not move."""

from openba_jax.objectives.mixture import D_UL2, D_UL2_CODE, D_UL2_PAPER
from tasks import token_store_tasks

for mixture in (D_UL2, D_UL2_CODE, D_UL2_PAPER):
    token_store_tasks.add(mixture)
