"""Fixtures of a study."""

from tiny_ancestor import ancestor, corpus, tokenizer

__all__ = ["ancestor", "corpus", "tokenizer"]
