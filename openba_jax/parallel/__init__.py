"""Devices: the mesh, the sharding of parameters, what the hardware can do."""
