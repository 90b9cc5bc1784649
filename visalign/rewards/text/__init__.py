"""Rewards of texts: what a language model answered to a prompt."""
