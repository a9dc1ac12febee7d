"""Fixtures of a staged run."""

from tiny_ancestor import ancestor, corpus, tokenizer

__all__ = ["ancestor", "corpus", "tokenizer"]
