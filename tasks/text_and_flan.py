"""Text and instructions: `NAME_flan` is half of each, `NAME_corpus` what the token stores hold."""

from openba_jax.objectives.mixture import TEXT_MIXTURES, get_mixture
from tasks import token_store_tasks

for text in TEXT_MIXTURES:
    for suffix in ("flan", "corpus"):
        token_store_tasks.add(get_mixture(f"{text.name}_{suffix}"))
