"""Training: one dictionary learning (Run), and many of them over one stream (train_together)."""
