"""Fitting what is left of a model so that it does, layer by layer, what the whole one did."""
