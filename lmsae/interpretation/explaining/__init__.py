"""Explanations of latents by a language model behind an endpoint, and scores of them (Paulo et al. 2024,
arXiv 2410.13928): questions, answers that are kept, detection and fuzzing."""
