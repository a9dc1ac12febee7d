"""Talking to a model: dialogues, the terminal, an HTTP interface and its page."""
