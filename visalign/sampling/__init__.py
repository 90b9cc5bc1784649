"""From a model and prompts to samples, and the cache of encodings."""
