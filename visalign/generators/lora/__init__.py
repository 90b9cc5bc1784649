"""Adapters: read in every published layout, started from, combined, trained and written."""
