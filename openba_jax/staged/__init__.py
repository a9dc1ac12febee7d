"""Staged compression, from text to the report: the steps behind `openba_jax.pipeline`."""
