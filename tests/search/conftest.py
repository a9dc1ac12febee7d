"""Fixtures of a search."""

from tiny_ancestor import ancestor, corpus, tokenizer

__all__ = ["ancestor", "corpus", "tokenizer"]
