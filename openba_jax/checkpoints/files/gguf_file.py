"""GGUF files: tensors dequantised as they are read, and quantised as they are written.

The package `gguf` (extra `gguf`) knows the file and its quantisations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.errors import UserError

QuantType = Literal["F32", "F16", "Q8_0"]
"""Types that matrices are written in; vectors are always F32."""

MAGIC = b"GGUF"


def library() -> Any:
    """The package `gguf`.

    Raises:
      UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            "GGUF files need the package gguf; install it with `pip install 'openba_jax[gguf]'`."
        ) from error
    return gguf


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file, float32 whatever it is there.

    Attributes:
      file: the file.
      name: of the tensor.
      shape: slowest axis first.
      stored: its values as they lie there: rows of numbers, or of blocks of bytes.
      kind: the number of their type.
      heads: heads whose channels are interleaved, along the rows; 0: none are.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    stored: np.ndarray
    kind: int
    heads: int = 0

    @property
    def dtype(self) -> np.dtype:
        """What is read."""
        return np.dtype(np.float32)

    def read(self, rows: RowSlice = None) -> np.ndarray:
        """The tensor, or some of its rows, dequantised."""
        if self.heads:
            whole = deinterleaved(self._values(self.stored), self.heads)
            return whole if rows is None else whole[rows]
        return self._values(self.stored if rows is None else self.stored[rows])

    def _values(self, stored: np.ndarray) -> np.ndarray:
        gguf = library()
        values = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType(self.kind))
        return np.asarray(values, np.float32)


def read_gguf(file: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Metadata by key, as plain Python values, and the tensors by name; none of them is read.

    Raises:
      UserError: the file is damaged, or a tensor has a type that cannot be dequantised.
    """
    gguf = library()
    try:
        reader = gguf.GGUFReader(file, "r")
        metadata = {name: _plain(field.contents()) for name, field in reader.fields.items()}
        found = list(reader.tensors)
    except Exception as error:  # A damaged file can fail in any way.
        reason = str(error).rstrip(".")
        raise UserError(f"{file} is no GGUF file, or is damaged: {reason}.") from error
    size = file.stat().st_size
    tensors = {}
    for tensor in found:
        if tensor.data_offset + tensor.n_bytes > size:
            raise UserError(f"{file} ends within the tensor {tensor.name}; fetch it again.")
        kind = gguf.GGMLQuantizationType(tensor.tensor_type)
        try:
            gguf.quants.dequantize(tensor.data[:1], kind)
        except NotImplementedError as error:
            raise UserError(
                f"{file}: tensor {tensor.name} has the type {kind.name}, which the package gguf "
                "cannot dequantise; take a file of another quantisation."
            ) from error
        shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
        tensors[tensor.name] = GgufTensor(file, tensor.name, shape, tensor.data, int(kind))
    return metadata, tensors


def _plain(value: Any) -> Any:
    """A number that float32 rounded, as it was written down: 1e-05 instead of 9.99999975e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def stored_type(shape: tuple[int, ...], wanted: QuantType) -> str:
    """The type that a tensor is written in.

    Vectors stay F32, as llama.cpp wants them. Rows that blocks of 32 do not divide become F16.
    """
    if len(shape) < 2:
        return "F32"
    return "F16" if wanted == "Q8_0" and shape[-1] % 32 else wanted


def write_gguf(
    file: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes a file, tensor by tensor.

    Args:
      file: to write.
      metadata: plain Python values by key, `general.architecture` among them.
      tensors: shapes and types (`stored_type`) by name.
      read: the values of a tensor.
    """
    gguf = library()
    values = dict(metadata)
    architecture = values.pop("general.architecture")
    with contextlib.closing(gguf.GGUFWriter(file, architecture)) as writer:
        for key, value in values.items():
            if value == []:  # Nothing to say, and GGUF has no empty lists.
                continue
            _ADD[_kind(value)](writer)(key, value)
        for name, (shape, kind) in tensors.items():
            # What is quantised is declared by its bytes.
            quant = gguf.GGMLQuantizationType[kind]
            stored = _stored(np.empty((0, *shape[1:]), np.float32), quant)
            shape = (shape[0], *stored.shape[1:])
            count = int(np.prod(shape, dtype=np.int64)) * stored.dtype.itemsize
            raw = quant if stored.dtype == np.uint8 else None
            writer.add_tensor_info(name, shape, stored.dtype, count, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (_, kind) in tensors.items():
            array = np.ascontiguousarray(read(name), np.float32)
            writer.write_tensor_data(_stored(array, gguf.GGMLQuantizationType[kind]))


def _stored(array: np.ndarray, kind: Any) -> np.ndarray:
    """Float32 values as they lie in the file."""
    gguf = library()
    if kind == gguf.GGMLQuantizationType.F32:
        return array
    if kind == gguf.GGMLQuantizationType.F16:
        return array.astype(np.float16)
    if not array.size:
        return np.empty(gguf.quant_shape_to_byte_shape(array.shape, kind), np.uint8)
    return np.asarray(gguf.quants.quantize(array, kind))


_ADD: dict[type, Callable[[Any], Callable[[str, Any], None]]] = {
    bool: lambda writer: writer.add_bool,
    int: lambda writer: writer.add_uint32,
    float: lambda writer: writer.add_float32,
    str: lambda writer: writer.add_string,
    list: lambda writer: writer.add_array,
    bytes: lambda writer: writer.add_array,
}


def _kind(value: Any) -> type:
    return next(kind for kind in _ADD if isinstance(value, kind))


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows `(heads half pair)` as `(heads pair half)`: halves become neighbouring pairs."""
    return _swapped(array, heads, (2, -1))


def deinterleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `interleaved`."""
    return _swapped(array, heads, (-1, 2))


def _swapped(array: np.ndarray, heads: int, parts: tuple[int, int]) -> np.ndarray:
    split = array.reshape(heads, *parts, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(array.shape)


@functools.cache
def names_of(architecture: str, layers: int) -> Any:
    """The package's map from Hugging Face's names of tensors to GGUF's."""
    gguf = library()
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    return gguf.get_tensor_name_map(number, layers)
