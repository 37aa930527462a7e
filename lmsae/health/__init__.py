"""Health: what is wrong with a dictionary, the evidence, and what to change."""
