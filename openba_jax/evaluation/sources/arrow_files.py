"""Rows of Parquet and Arrow files, such as Hugging Face `datasets` keeps; needs pyarrow alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError


def parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields where a row stands, and its fields.

    Raises:
      UserError: pyarrow is missing, or the file is no Parquet file.
    """
    _require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file, partitioning=None)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is no Parquet file: {error}.") from error
    yield from _rows(table, file)


def arrow_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """As `parquet_rows`, of a stream of Arrow as `Dataset.save_to_disk` and the cache write it.

    Raises:
      UserError: pyarrow is missing, or the file is no stream or file of Arrow.
    """
    _require_pyarrow()
    import pyarrow

    try:
        with pyarrow.OSFile(str(file)) as stream:
            table = pyarrow.ipc.open_stream(stream).read_all()
    except pyarrow.ArrowInvalid:
        try:
            with pyarrow.OSFile(str(file)) as stream:
                table = pyarrow.ipc.open_file(stream).read_all()
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{file} is no Arrow file: {error}.") from error
    yield from _rows(table, file)


def _rows(table: Any, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield f"{file} row {number}", fields


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Parquet and Arrow files need pyarrow; install it with pip install 'openba_jax[data]'."
        ) from error
