"""What a folder holds, what a size costs, and what can be done next."""
