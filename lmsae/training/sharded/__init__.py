"""One dictionary over several processes, each with a stretch of its latents (docs/scale.md)."""
