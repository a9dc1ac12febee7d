"""`openba_jax.seqio.settings`."""

from openba_jax.seqio.settings import DataFiles, data_files

__all__ = ["DataFiles", "data_files"]
