"""Layers, attention and losses: jax and flax only; knows no model."""
