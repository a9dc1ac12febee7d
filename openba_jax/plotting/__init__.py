"""Pictures of one look, with names in any script."""
