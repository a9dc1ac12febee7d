"""Vocabulary, token store, preparation of text, and the batches made from them. No tensorflow."""
