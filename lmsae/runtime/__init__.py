"""How to work: what must not change an artifact."""
