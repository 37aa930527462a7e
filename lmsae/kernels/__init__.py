"""Loops and products below the parts of a dictionary, on processors and GPUs."""
