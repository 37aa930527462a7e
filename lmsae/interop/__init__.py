"""Dictionaries in the formats of other libraries. SAELens folders are written and read; those of others are read."""
