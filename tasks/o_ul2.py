"""O-UL2's two objectives `o_ul2_*` and their mixtures `o_ul2_code` and `o_ul2_paper`."""

from openba_jax.objectives.mixture import O_UL2, O_UL2_CODE, O_UL2_PAPER
from tasks import token_store_tasks

for mixture in (O_UL2, O_UL2_CODE, O_UL2_PAPER):
    token_store_tasks.add(mixture)
