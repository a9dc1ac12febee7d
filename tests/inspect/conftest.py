"""The small vocabulary."""

from tiny_model import vocabulary

__all__ = ["vocabulary"]
