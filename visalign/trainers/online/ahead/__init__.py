"""Samples from other processes, drawn with earlier weights while this one learns."""
