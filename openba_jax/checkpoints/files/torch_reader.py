"""Reads files of `torch.save` without torch, lazily, and without running anything in them.

The format: a zip archive with a pickle `NAME/data.pkl` and one uncompressed entry `NAME/data/KEY`
per storage. A pickle can name any function to be called; here names are looked up in a list of
stand-ins, nothing is ever imported, and a name outside the list is refused. A pickle can also give
any object that it has got hold of another state: what is handed out is either made for that one
file or refuses (`_Sealed`), since such a change could reach this process (numpy's bfloat16, say).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from openba_jax.checkpoints.files.tensors import FileTensor
from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer

STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Sealed:
    """An object that a pickle cannot change once it is made."""

    def __setstate__(self, state: object) -> None:
        """Refuses the opcode BUILD.

        Raises:
          UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"it changes a {type(self).__name__.strip('_')} afterwards")


@dataclasses.dataclass(frozen=True)
class TorchDtype(_Sealed):
    """A `torch.dtype`, by name."""

    name: str


class Inert:
    """Stands for an object that is not needed: it takes everything and does nothing."""

    def __init__(self, *arguments: object) -> None:
        """Forgets the arguments."""

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets the item."""

    def append(self, item: object) -> None:
        """Forgets the item."""

    def extend(self, items: object) -> None:
        """Forgets the items."""


# What training leaves in a checkpoint besides weights: generator states, enumerations, sizes.
_INERT = frozenset(
    {
        "_codecs.encode",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "torch.device",
        "torch.Size",
    }
)
_INERT_PACKAGES = ("megatron.",)
_HARMLESS = {
    "builtins.set": set,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
}
_TORCH_DTYPES = frozenset(
    {
        "float32",
        "float16",
        "bfloat16",
        "float64",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    }
)


@dataclasses.dataclass(frozen=True)
class _StorageType(_Sealed):
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage(_Sealed):
    offset: int
    elements: int
    dtype: np.dtype


class _StoredTensor(_Sealed, FileTensor):
    """A tensor that cannot be moved to another place or file."""


class _Unpickler(pickle.Unpickler):
    """Builds `FileTensor` for tensors and looks no name up outside this module."""

    def __init__(self, file: Path, pickled: bytes, storages: dict[str, tuple[int, int]]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._file = file
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
          UserError: the name is not in the list.
        """
        # The pickle protocol of torch spells some modules as Python 2 did.
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return _StorageType(name)
        if full == "torch._utils._rebuild_tensor_v2":
            return self._rebuild_tensor
        if full == "torch._utils._rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _TORCH_DTYPES:
            return TorchDtype(name)
        if full in _HARMLESS:
            return _HARMLESS[full]
        # Classes of Python's own making are open to change: these are for this file alone.
        if full == "argparse.Namespace":
            return type(name, (argparse.Namespace,), {})
        if full in _INERT or full.startswith(_INERT_PACKAGES):
            return type(name, (Inert,), {})
        raise UserError(
            f"{self._file} names {full}, which no checkpoint of weights needs; it may be an "
            "attempt to run code and is not read."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of a persistent id `("storage", type, key, location, elements)`."""
        kind, storage_type, key, _, elements = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise UserError(f"{self._file} holds a storage of an unknown kind.")
        dtype = STORAGE_DTYPES[storage_type.name]
        if key not in self._storages:
            raise UserError(f"{self._file} is damaged: storage {key} is not in it.")
        offset, size = self._storages[key]
        if size != elements * dtype.itemsize:
            raise UserError(
                f"{self._file} is damaged: storage {key} has {size} bytes, "
                f"{elements * dtype.itemsize} are needed."
            )
        return _Storage(offset, elements, dtype)

    def _rebuild_tensor(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: object,
    ) -> FileTensor:
        size, stride = tuple(size), tuple(stride)
        if not all(type(number) is int for number in (offset, *size, *stride)):
            raise UserError(f"{self._file} is damaged: the shape of a tensor is not of integers.")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage.elements):
            raise UserError(f"{self._file} is damaged: a tensor reaches outside of its storage.")
        start = storage.offset + offset * storage.dtype.itemsize
        return _StoredTensor(self._file, start, size, storage.dtype, stride)


def read_torch(file: Path) -> Any:
    """What `torch.save` wrote, each tensor as a `FileTensor`.

    Raises:
      UserError: the file is missing, cut short, not of this format or a pointer of Git LFS, or it
        names code to be run.
    """
    reject_lfs_pointer(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise UserError(f"{file} is no file of torch.save: it holds no data.pkl.")
            root = names[0].removesuffix("data.pkl")
            storages = _storages(file, archive, f"{root}data/")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != (
                b"little"
            ):
                raise UserError(f"{file} is written in big-endian order.")
            pickled = archive.read(names[0])
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist.") from error
    except (UserError, PermissionError):
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise UserError(
            f"{file} is no zip archive of torch.save, or is cut short; files of torch before 1.6 "
            "must be saved anew."
        ) from error
    try:
        return _Unpickler(file, pickled, storages).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error) or type(error).__name__
        raise UserError(f"{file} is damaged: its pickle cannot be read ({reason}).") from error


def _storages(file: Path, archive: zipfile.ZipFile, prefix: str) -> dict[str, tuple[int, int]]:
    """Offset and size of the storages by key."""
    storages = {}
    end = file.stat().st_size
    with file.open("rb") as stream:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{file}: {info.filename} is compressed; torch never does that.")
            if not info.filename.startswith(prefix):
                continue
            stream.seek(info.header_offset)
            header = stream.read(30)
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            offset = info.header_offset + 30 + name_length + extra_length
            if header[:4] != b"PK\x03\x04" or offset + info.file_size > end:
                raise UserError(f"{file} is cut short: {info.filename} is damaged.")
            storages[info.filename.removeprefix(prefix)] = (offset, info.file_size)
    return storages
