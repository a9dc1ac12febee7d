"""Benchmarks: a new one is a module with a `BENCHMARK`, and one line in `registry`."""
