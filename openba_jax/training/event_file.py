"""TensorBoard event files, written without TensorFlow.

`clu.metric_writers` imports TensorFlow, which takes seconds and hundreds of megabytes at the start
of every run, and the package tensorboard besides. What scalars need of the format is small: records
of TFRecord framing (length, masked CRC-32C of it, bytes, masked CRC-32C of them) that hold `Event`
protocol buffers.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_SESSION_START = 1


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc32c(content: bytes) -> int:
    """The Castagnoli CRC of some bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked_crc(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _message(field: int, content: bytes) -> bytes:
    """A field that holds a message or a string."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _event(step: int, content: bytes) -> bytes:
    """`Event { wall_time = 1; step = 2; ... }`."""
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _scalar(tag: str, value: float) -> bytes:
    """`Summary { value = 1 { tag = 1; simple_value = 2 } }`."""
    return _message(1, _message(1, tag.encode()) + b"\x15" + struct.pack("<f", value))


class EventFile:
    """One event file of scalars, appended to."""

    def __init__(self, folder: str | os.PathLike[str], first_step: int = 0) -> None:
        """Starts a new file in `folder`.

        Args:
          folder: made if need be; files of earlier sessions may be there.
          first_step: what earlier sessions wrote from this step on, TensorBoard forgets.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = (Path(folder) / name).open("wb")
        self._record(_event(0, _message(3, b"brain.Event:2")))
        # SessionLog { status = 1 }
        self._record(_event(first_step, _message(7, b"\x08" + _varint(_SESSION_START))))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends scalars by tag."""
        summary = b"".join(_scalar(tag, value) for tag, value in scalars.items())
        self._record(_event(step, _message(5, summary)))

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _record(self, content: bytes) -> None:
        length = struct.pack("<Q", len(content))
        self._file.write(length + _masked_crc(length) + content + _masked_crc(content))
