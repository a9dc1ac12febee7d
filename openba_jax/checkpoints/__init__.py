"""Model folders, and what other packages write: Hugging Face, Megatron, T5X."""
