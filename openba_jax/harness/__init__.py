"""The bridge to lm-evaluation-harness: any of its tasks on any model folder."""
