"""How much layers, channels, heads and units matter: a file for each kind of criterion."""
