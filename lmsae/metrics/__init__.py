"""Metrics: their formulas, and their definitions in groups."""
