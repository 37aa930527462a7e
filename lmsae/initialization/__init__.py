"""Initialization: the weights that training starts from, found on activations that training never sees."""
