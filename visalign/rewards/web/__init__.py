"""Asking servers: addresses and keys, requests bounded in time and bytes, and replies that may be anything."""
