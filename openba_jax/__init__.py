"""Compression of encoder-decoder language models in JAX."""

from openba_jax.version import __version__

__all__ = ["__version__"]
