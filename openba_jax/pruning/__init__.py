"""Plans, selections and the generic transform that make a small model out of a large one."""
