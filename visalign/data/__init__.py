"""Preference pairs, annotations and prompts: reading, checking and storing them."""

from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import read_pairs
from visalign.data.prompts import read_prompts

__all__ = ["PreferencePair", "read_pairs", "read_prompts"]
