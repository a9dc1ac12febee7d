"""All criteria, by name."""

from __future__ import annotations

from collections.abc import Collection

# A criterion registers itself when its file is read: one line here for each.
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.language import told
from openba_jax.pruning.criteria import activation, base, gradients, layers, magnitude  # noqa: F401
from openba_jax.pruning.criteria.base import RANDOM, Scores, Subject, check_keys, check_scores


def names() -> tuple[str, ...]:
    """What a method may be: `random`, or a criterion."""
    return (RANDOM, *base.CRITERIA)


def score(name: str, subject: Subject, keys: Collection[str]) -> Scores:
    """Scores by the name of a criterion; arguments as `Criterion`.

    Raises:
      UserError: no criterion has that name, it cannot score a key, text is missing, a parameter is
        not finite, or a score is not.
    """
    if name not in base.CRITERIA:
        known = ", ".join(names())
        raise UserError(f"no pruning criterion is called {name!r}; known are {known}.")
    check_keys(name, keys)
    with show_progress(told("scoring by {method}", method=name)):
        scores = base.CRITERIA[name](subject, keys)
    check_scores(name, scores)
    return scores
