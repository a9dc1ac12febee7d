"""The network, its configuration, its losses and decoding: jax and flax only."""
