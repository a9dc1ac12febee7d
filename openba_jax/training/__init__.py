"""The native runner: sharding, optimizer, train step, metrics and the training loop."""
