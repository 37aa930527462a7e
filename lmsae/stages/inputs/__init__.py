"""What stages read from the artifacts of earlier ones."""
