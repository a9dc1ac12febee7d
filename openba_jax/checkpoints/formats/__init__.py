"""One module per checkpoint format: open one, write one."""
