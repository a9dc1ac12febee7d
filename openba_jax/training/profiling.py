"""A trace of some steps by JAX's profiler, for XProf and Perfetto."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
from absl import logging

from openba_jax.errors import UserError

FOLDER = "profile"
"""In the model folder; holds a folder for every trace, where TensorBoard looks for them."""


class Window(NamedTuple):
    """The steps after the first `start` and up to `stop`."""

    start: int
    stop: int


def parse_window(text: str) -> Window:
    """Reads `START:STOP`.

    Raises:
      UserError: it is something else, or holds no step.
    """
    if not re.fullmatch(r"\d+:\d+", text, re.ASCII):
        raise UserError(f"profile_steps is {text!r}; write START:STOP, such as 100:105.")
    window = Window(*map(int, text.split(":")))
    if window.start >= window.stop:
        raise UserError(f"profile_steps is {text!r}, in which there is no step; STOP comes later.")
    return window


def check_window(window: Window | None, train_steps: int) -> None:
    """Checks that a run has the steps that are to be traced.

    Raises:
      UserError: it ends before them.
    """
    if window is not None and window.stop > train_steps:
        raise UserError(
            f"profile_steps is {window.start}:{window.stop}, and the run ends at step "
            f"{train_steps}; choose steps before that."
        )


class Profiler:
    """Traces the steps of a window; outside of it, it does nothing."""

    def __init__(self, folder: Path, window: Window | None, start: int) -> None:
        """Nothing is traced yet.

        A run that is started again, with the same arguments, need not have the window before it.

        Args:
          folder: the model folder.
          window: what to trace, if anything.
          start: step at which the run begins or goes on.
        """
        if window is not None and start >= window.stop:
            logging.warning(
                "Nothing is profiled: the run goes on at step %d, and profile_steps is %d:%d.",
                *(start, *window),
            )
            window = None
        self._folder, self._window = folder / FOLDER, window
        self._first = max(start, window.start) if window is not None else None
        self._tracing = False

    def before(self, step: int, in_flight: Any) -> None:
        """Starts the trace where `step` steps have been taken and the window begins.

        Args:
          step: steps taken.
          in_flight: results of earlier steps, which are to end outside of the trace.
        """
        if step == self._first:
            jax.block_until_ready(in_flight)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int, results: Any) -> None:
        """Ends the trace where `step` steps have been taken and the window ends."""
        if self._tracing and self._window is not None and step == self._window.stop:
            jax.block_until_ready(results)
            self._end()
            logging.warning("Profiled steps %d:%d into %s.", *self._window, self._folder)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends a trace that is under way: what there is of it is written."""
        if self._tracing:
            self._end()

    def _end(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
