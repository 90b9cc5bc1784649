"""What is called otherwise than it was: an old word is answered with the new one, and does nothing."""

VERBS = {"rollout": "votes draw", "layout": "benchmark layout", "pairs": "data pairs SOURCE -o OUT"}
"""Commands."""

OPTIONS = {
    "--output": "--out", "--samples": "--samples-per-prompt", "--seeds": "--samples-per-prompt",
    "--per-prompt": "--samples-per-prompt", "--judges": "--rewards", "--vote-by": "--reward",
    "--image-root": "--media-root", "--clip-format": "--video-format", "--rollout": "--drawn",
    "--from": "SOURCE as an argument (visalign data pairs SOURCE -o OUT)", "--list": "`visalign list rewards`"}
"""Options of any command."""

KEYS = {"reward.of": "reward.models", "data.image_root": "data.media_root",
        "data.max_judgements": "data.max_annotations"}
"""Keys of recipes."""

PROMPT_SETS = {"clips": "videos"}
"""Prompts that come with visalign."""
