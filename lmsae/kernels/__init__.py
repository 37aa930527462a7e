"""The loops and products that the parts of a dictionary are made of, on processors and GPUs."""
