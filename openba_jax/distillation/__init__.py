"""Distillation: a student learns from the distribution of a teacher (docs/distillation.md)."""
