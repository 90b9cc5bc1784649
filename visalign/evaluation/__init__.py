"""From samples to numbers: held-out prompts, comparisons of models, and the accuracy of rewards."""
