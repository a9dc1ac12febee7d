"""Writes files that `torch.load` reads, without torch, storage by storage.

The pickle is written by hand: Python's pickler insists on importing what it names, and torch need
not be installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from openba_jax.checkpoints.files.tensors import Read, ahead
from openba_jax.checkpoints.files.torch_reader import STORAGE_DTYPES, TorchDtype

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A tensor whose values are written later, by `TorchWriter.write`.

    Attributes:
      name: the name under which they will be written.
      shape: its shape.
      dtype: its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


class TorchWriter:
    """A file of `torch.save`, opened for writing: a context manager."""

    def __init__(self, file: Path, content: Any) -> None:
        """Writes everything but the tensors.

        Args:
          file: the file to write.
          content: nested dictionaries, lists, tuples, numbers, strings, `argparse.Namespace`,
            `TorchDtype` and `TensorSpec`.
        """
        self._root = file.stem
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        encoder = _Encoder()
        encoder.encode(content)
        self._keys = encoder.keys
        self._put("data.pkl", [encoder.finish()])
        self._put("byteorder", [b"little"])

    def write(self, spec: TensorSpec, reads: Iterable[Read]) -> None:
        """Writes a tensor's values; the reads yield consecutive rows in C order."""
        size = math.prod(spec.shape) * spec.dtype.itemsize
        chunks = (array.reshape(-1).view(np.uint8).data for array in ahead(reads))
        written = self._put(f"data/{self._keys[spec.name]}", chunks)
        if written != size:  # The caller is at fault.
            raise AssertionError(f"{spec.name}: {written} bytes written, {size} planned")

    def __enter__(self) -> TorchWriter:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Completes the file."""
        if kind is None:
            self._put("version", [b"3\n"])
        self._archive.close()

    def _put(self, name: str, chunks: Iterable[bytes | memoryview]) -> int:
        info = zipfile.ZipInfo(f"{self._root}/{name}", (1980, 1, 1, 0, 0, 0))
        # An extra field of filler brings the data to an aligned offset, as torch itself does.
        zip64_extra = 20
        start = self._archive.start_dir + 30 + len(info.filename.encode()) + zip64_extra + 4
        padding = -start % _ALIGNMENT
        info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        with self._archive.open(info, "w", force_zip64=True) as stream:
            return sum(stream.write(chunk) for chunk in chunks)


class _Encoder:
    """Pickle protocol 2, for the few kinds of objects that checkpoints hold."""

    def __init__(self) -> None:
        self._out = bytearray(pickle.PROTO + b"\x02")
        self.keys: dict[str, str] = {}

    def finish(self) -> bytes:
        return bytes(self._out + pickle.STOP)

    def encode(self, value: Any) -> None:
        out = self._out
        if value is None:
            out += pickle.NONE
        elif isinstance(value, bool):
            out += pickle.NEWTRUE if value else pickle.NEWFALSE
        elif isinstance(value, int):
            if -(2**31) <= value < 2**31:
                out += pickle.BININT + struct.pack("<i", value)
            else:
                data = pickle.encode_long(value)
                out += pickle.LONG1 + bytes([len(data)]) + data
        elif isinstance(value, float):
            out += pickle.BINFLOAT + struct.pack(">d", value)
        elif isinstance(value, str):
            data = value.encode()
            out += pickle.BINUNICODE + struct.pack("<I", len(data)) + data
        elif isinstance(value, dict):
            out += pickle.EMPTY_DICT + pickle.MARK
            for key, item in value.items():
                self.encode(key)
                self.encode(item)
            out += pickle.SETITEMS
        elif isinstance(value, tuple):
            out += pickle.MARK
            for item in value:
                self.encode(item)
            out += pickle.TUPLE
        elif isinstance(value, list):
            out += pickle.EMPTY_LIST + pickle.MARK
            for item in value:
                self.encode(item)
            out += pickle.APPENDS
        elif isinstance(value, argparse.Namespace):
            self._global("argparse", "Namespace")
            out += pickle.EMPTY_TUPLE + pickle.REDUCE
            self.encode(vars(value))
            out += pickle.BUILD
        elif isinstance(value, TorchDtype):
            self._global("torch", value.name)
        elif isinstance(value, TensorSpec):
            self._tensor(value)
        else:
            raise TypeError(f"cannot write {type(value).__name__} into a torch file")

    def _global(self, module: str, name: str) -> None:
        self._out += pickle.GLOBAL + f"{module}\n{name}\n".encode()

    def _tensor(self, spec: TensorSpec) -> None:
        """`torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
        key = self.keys.setdefault(spec.name, str(len(self.keys)))
        out = self._out
        self._global("torch._utils", "_rebuild_tensor_v2")
        out += pickle.MARK + pickle.MARK
        self.encode("storage")
        self._global("torch", _STORAGE_NAMES[spec.dtype])
        self.encode(key)
        self.encode("cpu")
        self.encode(math.prod(spec.shape))
        out += pickle.TUPLE + pickle.BINPERSID
        self.encode(0)
        self.encode(tuple(spec.shape))
        self.encode(tuple(math.prod(spec.shape[i + 1 :]) for i in range(len(spec.shape))))
        self.encode(False)
        self._global("collections", "OrderedDict")
        out += pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE
