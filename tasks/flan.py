"""`flan`: instruction pairs. Mixtures of text and instructions are in `text_and_flan`."""

from openba_jax.objectives.mixture import FLAN
from tasks import token_store_tasks

token_store_tasks.add(FLAN)
