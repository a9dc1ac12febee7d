"""Tokenizers after a cut: the pieces that are kept, and the merges that build them."""
