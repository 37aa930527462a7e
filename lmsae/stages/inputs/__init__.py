"""The readings of stages from the artifacts of earlier ones."""
