"""Artifacts: identity, claims, publishing, and going on after an interruption."""
