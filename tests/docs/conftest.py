"""The fixtures of this folder."""

from tiny_model import loaded, vocabulary

__all__ = ["loaded", "vocabulary"]
