"""Samples to numbers: held-out prompts, comparisons of models, and how far a reward can be trusted."""
