"""Interpretation: what each latent means, by the text on which it is active and by what it writes."""
