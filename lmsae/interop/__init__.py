"""Dictionaries in the formats of other libraries."""
