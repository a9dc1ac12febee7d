"""Benchmarks whose answers are generated; one file each, named in `benchmarks.registry`."""
