"""lmsae: sparse autoencoders and their relatives, as a workflow with content-addressed artifacts."""

__version__ = "0.1.0"
