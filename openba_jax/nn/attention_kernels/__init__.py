"""Ways to compute attention: a new one is a file with a `KERNEL` and a line in the registry."""
