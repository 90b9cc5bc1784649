"""The offline loop: preference pairs to a fine-tuned generator."""
