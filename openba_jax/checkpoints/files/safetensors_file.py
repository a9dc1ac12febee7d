"""Reads and writes safetensors files, tensor by tensor.

The format: 8 bytes length, a JSON header `{name: {dtype, shape, data_offsets}}`, raw tensors. The
library of that name writes from whole tensors in memory and its numpy front end knows no bfloat16,
hence these few lines; files are exchanged with it in the tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from openba_jax.checkpoints.files.tensors import FileTensor, Read, ahead
from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100 * 2**20


def read_safetensors(file: Path) -> dict[str, FileTensor]:
    """The tensors of a file; nothing but its header is read.

    Raises:
      UserError: the file is missing, cut short, not of this format or a pointer of Git LFS.
    """
    reject_lfs_pointer(file)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise UserError(f"{file} is no safetensors file, or is cut short.")
            header = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise UserError(f"{file} is no safetensors file: its header is no JSON object.")
    tensors = {}
    for name, fields in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(size) for size in fields["shape"])
            start, stop = (int(offset) for offset in fields["data_offsets"])
            dtype_name = str(fields["dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: the header of tensor {name} is damaged.") from error
        if dtype_name not in _DTYPES:
            raise UserError(f"{file}: tensor {name} has the unknown type {dtype_name}.")
        dtype = _DTYPES[dtype_name]
        if start < 0 or stop - start != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{file}: the header of tensor {name} is damaged.")
        if 8 + length + stop > size:
            raise UserError(f"{file} is cut short: tensor {name} ends behind the end of the file.")
        tensors[name] = FileTensor(file, 8 + length + start, shape, dtype)
    return tensors


def write_safetensors(
    file: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    reads: Callable[[str], Iterable[Read]],
) -> None:
    """Writes a file, tensor by tensor.

    Args:
      file: the file to write.
      tensors: names, shapes and types of the tensors, in order.
      reads: gives the reads of a tensor, which yield consecutive rows in C order.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in tensors.items():
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        start = stream.tell()
        for array in ahead(read for name in tensors for read in reads(name)):
            stream.write(array.reshape(-1).view(np.uint8).data)
        if stream.tell() - start != offset:  # The caller is at fault.
            raise AssertionError(f"{file}: {stream.tell() - start} bytes written, {offset} planned")
