"""Captions of the embedded sets as people ask for them, in words that the embedded generators were never trained on.

    polite-emoji:train    "a drawing of red apple, please"    polite-videos:held_out    "could you show me bus grows?"

A rewrite that leaves out what is asked politely is a caption again: a task whose answer is known.
"""

import hashlib

from visalign.data.embedded_images import emoji_captions
from visalign.data.embedded_videos import video_captions

POLITE_FORMS = {
    "polite-emoji": ("a drawing of {}, please", "could you draw {}?", "please draw {} for me"),
    "polite-videos": ("a video of {}, please", "could you show me {}?", "please animate {} for me"),
}
"""By the name of the set; which form a caption has follows from the caption."""
_CAPTIONS = {"polite-emoji": emoji_captions, "polite-videos": video_captions}


def polite_prompts(name: str, split: str) -> list[str]:
    """Each caption of a split in one of the set's forms, in the order of the captions."""
    forms = POLITE_FORMS[name]
    return [forms[hashlib.sha256(caption.encode()).digest()[0] % len(forms)].format(caption)
            for caption in _CAPTIONS[name](split)]
