"""Scoring and benchmarks: what a model knows, measured."""
