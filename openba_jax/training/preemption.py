"""SIGTERM and Ctrl-C: the step in progress is finished and saved, then the process ends.

Clusters announce preemption by SIGTERM and kill some time later. Exit codes are those that shells
give to a process that a signal ended: 143 after SIGTERM, 130 after Ctrl-C. A second signal ends the
process at once; the checkpoints that were complete stay.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class StopSignals:
    """Within it SIGTERM and SIGINT are noted down; only Python's main thread can do so.

    In a run of several processes JAX itself listens for SIGTERM, tells all processes and agrees
    with them on a step; a SIGINT is passed on as SIGTERM.
    """

    def __init__(self) -> None:
        """Nothing is changed yet."""
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            numbers = (
                [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
            )
            for number in numbers:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_after(self, step: int) -> bool:
        """Whether the run is to stop after a step; 0 before the first.

        All processes get the same answer, if each asks after every step.
        """
        if jax.process_count() == 1:
            return self._received is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def end(self, step: int) -> None:
        """Ends the run whose newest checkpoint is of `step`.

        Raises:
          KeyboardInterrupt: Ctrl-C was pressed.
          SystemExit: SIGTERM came, to this process or to another one.
        """
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        sys.stderr.write(
            f"stopped by SIGTERM at step {step}; start again with the same arguments to go on.\n"
        )
        raise SystemExit(SIGTERM_EXIT_CODE)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        name = signal.Signals(number).name
        # Not by sys.stderr, which the signal may have interrupted.
        os.write(2, f"{name}: saving after this step; once more ends at once.\n".encode())
        for installed in self._before:
            signal.signal(installed, signal.SIG_DFL)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
