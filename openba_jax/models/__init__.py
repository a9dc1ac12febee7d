"""Model families: configuration, network, parameters by axis; jax and flax only."""
