"""Decoding, beam search, generation from text to text."""
