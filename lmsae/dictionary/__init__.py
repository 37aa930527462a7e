"""A dictionary: a geometry and an activation function, with the scales of the activations it was trained on."""
