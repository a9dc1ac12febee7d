"""Studies: recipes of compression compared over seeds at equal tokens (docs/study.md)."""
