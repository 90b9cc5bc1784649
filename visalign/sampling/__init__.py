"""Model and prompts to samples, and the encodings that are computed once."""
