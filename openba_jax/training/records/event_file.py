"""TensorBoard event files, written with tensorboardX and without TensorFlow.

Of tensorboardX these are the records and protocol buffers (0.9 MB, no further package). Its
`SummaryWriter` is not used: it names files by the second, so that a run restarted at once writes
over the last file, and writes from a thread that `flush` does not wait for.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

_PREFIX = "events.out.tfevents."


class EventFile:
    """One event file of scalars, appended to."""

    def __init__(self, folder: str | os.PathLike[str], purge_step: int = 0) -> None:
        """Starts a new file in `folder`.

        Args:
          folder: made if need be; files of earlier sessions may be there.
          purge_step: what earlier sessions wrote from this step on, TensorBoard drops.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{_PREFIX}{_next_number(folder)}.{socket.gethostname()}"
        self._records = RecordWriter(str((folder / name).resolve()))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends scalars by tag."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Brings what was written to the disk."""
        self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _next_number(folder: Path) -> int:
    """The time in nanoseconds, or one more than the newest file's if the clock went back.

    TensorBoard reads the files of a folder in the order of their names.
    """
    numbers = [path.name.removeprefix(_PREFIX).partition(".")[0] for path in folder.iterdir()]
    return max([time.time_ns(), *(int(number) + 1 for number in numbers if number.isdecimal())])
