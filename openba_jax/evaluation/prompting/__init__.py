"""Prompts of benchmarks: templates, demonstrations, and questions framed by them."""
