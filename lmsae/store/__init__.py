"""The activation store: one plain Zarr v3 array of one hook point's activations, and shuffled batches out of it."""
