"""`openba_jax.seqio` under the name that T5X projects give to such a package.

`import tasks` registers every task and mixture with seqio. It works from a checkout of the
repository; an installed wheel has `openba_jax.seqio` alone.
"""

from openba_jax.seqio import settings, token_store_tasks, vocabulary

__all__ = ["settings", "token_store_tasks", "vocabulary"]
