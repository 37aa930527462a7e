"""Own activations: files of vectors that somebody else has made, in the place of a language model and its text."""
