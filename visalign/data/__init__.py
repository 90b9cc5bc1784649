"""Preference pairs and prompts: where they come from and how they are kept."""

from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import read_pairs
from visalign.data.prompts import read_prompts

__all__ = ["PreferencePair", "read_pairs", "read_prompts"]
