"""Evaluation: a dictionary beside the model it was trained on, on text that neither saw."""
