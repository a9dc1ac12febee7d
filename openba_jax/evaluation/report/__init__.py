"""Figures of benchmarks as files, tables and plots."""
