"""`openba_jax.seqio.vocabulary`."""

from openba_jax.seqio.vocabulary import OpenBAVocabulary

__all__ = ["OpenBAVocabulary"]
