"""Files that hold tensors: torch, safetensors, tensorstore."""
