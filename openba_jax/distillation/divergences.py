"""Divergences between the distributions of a teacher and of a student, one function each.

A new one is a function of this form and a line in `DIVERGENCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from openba_jax.errors import UserError

Divergence = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits of the student, logits of the teacher), float32 `[..., vocab]` -> nats `[...]`, at least
0, and 0 where the distributions are the same."""

_TINY = float(jnp.finfo(jnp.float32).tiny)


def forward_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(teacher || student): the student covers all that the teacher thinks likely.

    Hinton, Vinyals and Dean 2015 (arXiv:1503.02531); the loss of Minitron (arXiv:2407.14679).
    """
    return _kl(teacher, student)


def reverse_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(student || teacher): the student avoids what the teacher thinks unlikely.

    MiniLLM (Gu et al. 2023, arXiv:2306.08543) minimises it over texts of the student; here it is
    taken token by token, on the texts of the batch.
    """
    return _kl(student, teacher)


def js(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """The Jensen-Shannon divergence: the mean KL of both to their mean, at most log 2.

    GKD (Agarwal et al. 2023, arXiv:2306.13649) with beta = 1/2.
    """
    fixed = jax.lax.stop_gradient
    log_p, log_q = jax.nn.log_softmax(teacher), fixed(jax.nn.log_softmax(student))
    p, q = jnp.exp(log_p), jax.nn.softmax(student)
    log_mean = jnp.log(jnp.maximum(p + fixed(q), _TINY) / 2)
    of_teacher = jnp.sum(p * (log_p - log_mean), axis=-1)
    # The derivative by the mean is 0: that by q is what q is multiplied with.
    of_student = jnp.sum(q * (log_q - log_mean), axis=-1)
    return 0.5 * (fixed(of_teacher) + of_student)


DIVERGENCES: Mapping[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "js": js,
}


def divergence(name: str) -> Divergence:
    """The divergence of a name.

    Raises:
      UserError: there is none.
    """
    if name not in DIVERGENCES:
        known = ", ".join(DIVERGENCES)
        raise UserError(f"the divergence {name!r} is unknown; known are {known}.")
    return DIVERGENCES[name]


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL(p || q) of logits: the mean difference of the logits under p, less that of the norms."""
    log_p = jax.nn.log_softmax(p)
    return jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(q)), axis=-1)
