"""How many questions are done: a bar with the time left, on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import jax
import tqdm

from openba_jax.evaluation.benchmarks.base import Advance


@contextlib.contextmanager
def bar(title: str, total: int, done: int, shown: bool) -> Iterator[Advance]:
    """A bar on stderr where that is a terminal, of the first process alone.

    Args:
      title: what is measured.
      total: questions.
      done: questions that were asked before.
      shown: whether there is to be one.
    """
    disabled = not (shown and sys.stderr.isatty() and jax.process_index() == 0)
    with tqdm.tqdm(
        total=total,
        initial=done,
        desc=title,
        unit="question",
        dynamic_ncols=True,
        disable=disabled,
    ) as found:
        yield found.update
