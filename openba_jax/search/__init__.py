"""Search: which shape a model should be cut to, for a given budget; `openba-search`."""
