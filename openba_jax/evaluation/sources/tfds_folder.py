"""Rows of a data set that TensorFlow Datasets prepared on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError


def is_tfds(folder: Path) -> bool:
    """Whether a folder is that of one configuration and version, such as `piqa/1.0.0`."""
    return (folder / "features.json").is_file() and (folder / "dataset_info.json").is_file()


def read(folder: Path) -> list[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """Splits by name, each with its rows and their places.

    Raises:
      UserError: tensorflow-datasets is missing, or the folder is damaged.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{folder} is a folder of TFDS; install tensorflow-datasets to read it."
        ) from error
    try:
        builder = tfds.builder_from_directory(str(folder))
        splits = []
        for name in builder.info.splits:
            items = tfds.as_numpy(builder.as_dataset(split=name, shuffle_files=False))
            rows = [
                (f"{folder} {name} {number}", _plain(item))
                for number, item in enumerate(items, start=1)
            ]
            splits.append((str(name), rows))
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"{folder} cannot be read as a folder of TFDS: {error}.") from error
    return splits


def _plain(value: Any) -> Any:
    """Texts and numbers instead of bytes and arrays."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
