"""Old names of commands and options: each is answered with the new one, and does nothing (see storage/old_names.py)."""

VERBS = {"rollout": "votes draw", "layout": "benchmark layout", "pairs": "data pairs SOURCE -o OUT"}
"""Commands."""

OPTIONS = {
    "--output": "--out", "--samples": "--samples-per-prompt", "--seeds": "--samples-per-prompt",
    "--per-prompt": "--samples-per-prompt", "--judges": "--rewards", "--vote-by": "--reward",
    "--image-root": "--media-root", "--clip-format": "--video-format", "--rollout": "--drawn",
    "--from": "SOURCE as an argument (visalign data pairs SOURCE -o OUT)", "--list": "`visalign list rewards`"}
"""Options of any command."""
