"""The offline loop: from preference pairs to a fine-tuned generator."""
