"""Rewards as a service: an HTTP server that scores samples in batches across requests."""
