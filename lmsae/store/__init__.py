"""The activation store: a plain Zarr v3 array of the activations at one hook point, and shuffled batches out of it."""
