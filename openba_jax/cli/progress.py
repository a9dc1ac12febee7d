"""Signs of life: a bar on a terminal, and elsewhere a line now and then.

What is quick says nothing. What takes long says every few seconds how far it is, or, where nothing
can be counted, for how long it has been at work.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from openba_jax.language import told

SECONDS = 9.0
"""Between two lines; nothing is silent for more than ten seconds."""

Advance = Callable[[int], object]
"""Told how much more is done."""


@contextlib.contextmanager
def show_progress(
    what: str, total: int | None = None, unit: str = "", done: int = 0, shown: bool = True
) -> Iterator[Advance]:
    """Shows on stderr that something is at work.

    Args:
      what: what is being done, as in `reading runs/model`.
      total: how much there is of it; None: that cannot be told.
      unit: of that; `B` for bytes.
      done: how much was done before.
      shown: whether there is to be a sign at all.

    Yields:
      A function to be told how much more is done, from any thread.
    """
    if not shown:
        yield lambda _: None
    elif total is not None and sys.stderr.isatty():
        from tqdm import tqdm

        scale = unit == "B"
        with tqdm(
            total=total, initial=done, desc=what, unit=unit, unit_scale=scale, dynamic_ncols=True
        ) as bar:
            yield bar.update
    else:
        with _lines(what, total, done) as advance:
            yield advance


@contextlib.contextmanager
def _lines(what: str, total: int | None, before: int) -> Iterator[Advance]:
    began, ended, lock, done = time.monotonic(), threading.Event(), threading.Lock(), 0

    def advance(more: int) -> None:
        nonlocal done
        with lock:
            done += more

    def speak() -> None:
        while not ended.wait(SECONDS):
            seconds = time.monotonic() - began
            text = told("{time} so far", time=clock(seconds))
            if total:
                left = text
                if done:
                    left = told("{time} left", time=clock(seconds / done * (total - before - done)))
                text = f"{(before + done) / total:.0%}, {left}"
            sys.stderr.write(f"{what}: {text}\n")
            sys.stderr.flush()

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield advance
    finally:
        ended.set()
        speaker.join()


def clock(seconds: float) -> str:
    """A time as people read it: `40 s`, `12 min`, `3.5 h`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return told("{time:.0f} s", time=seconds)
    if seconds < 5400:
        return told("{time:.0f} min", time=seconds / 60)
    return told("{time:.1f} h", time=seconds / 3600)
