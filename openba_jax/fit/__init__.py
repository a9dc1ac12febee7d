"""Known before it runs: a step compiled for a chip that is not there, and what it would take."""
