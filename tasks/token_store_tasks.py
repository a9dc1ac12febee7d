"""`openba_jax.seqio.token_store_tasks`."""

from openba_jax.seqio.token_store_tasks import OUTPUT_FEATURES, add

__all__ = ["OUTPUT_FEATURES", "add"]
