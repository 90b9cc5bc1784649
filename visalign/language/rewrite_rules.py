"""Rewrites made by rule: politeness and framing left out, words dropped or exchanged. English only."""

import re
from collections.abc import Iterator

_POLITE = (
    r"^(?:please|kindly)[,\s]+", r"[,\s]+(?:please|thanks|thank you)\b[.!]*$", r"\bfor (?:me|us)\b[.!?]*$",
    r"^(?:could|can|would|will) you (?:please )?",
    r"^i(?: would|['\u2019]d)? (?:like|love|want)(?: to (?:see|have|get))? ",
)
_MADE = ("drawing", "picture", "image", "photo", "photograph", "painting", "sketch", "illustration", "video",
         "animation")
_FRAMING = (
    r"^(?:draw|paint|sketch|make|create|generate|show|animate|render|give)(?: me| us)?\s+",
    rf"^(?:an? |the |some )?(?:\w+ )?(?:{'|'.join(_MADE)})s? (?:of|showing|with)\s+",
)
SYNONYMS = {
    "big": "large", "large": "big", "small": "little", "little": "small", "happy": "smiling", "smiling": "happy",
    "pretty": "beautiful", "beautiful": "pretty", "quick": "fast", "fast": "quick", "bright": "vivid",
    "kid": "child", "child": "kid", "cat": "kitten", "dog": "puppy", "car": "automobile", "automobile": "car",
    "street": "road", "road": "street", "forest": "woods", "woods": "forest", "ocean": "sea", "sea": "ocean",
    "boat": "ship", "ship": "boat", "house": "home", "rock": "stone", "stone": "rock", "grey": "gray", "gray": "grey",
    "shape": "form", "meal": "dish", "dish": "meal", "bug": "insect", "insect": "bug", "moves": "goes",
    "grows": "gets larger", "shrinks": "gets smaller", "turns": "rotates", "rotates": "turns",
}
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def plain_prompt(text: str) -> str:
    """The prompt without politeness and without saying that it is a drawing, an image or a video."""
    before = None
    while before != text:
        before = text
        for pattern in (*_POLITE, *_FRAMING):
            text = re.sub(pattern, "", text.strip(), flags=re.IGNORECASE).strip(" ,.!?")
    return text


def rule_rewrites(text: str) -> Iterator[str]:
    """Rewrites from the most to the least probable to keep the meaning, each once: plain, without its article, with a
    synonym, with one word dropped. The text itself is none of them."""
    core = plain_prompt(text) or text
    words = core.split()
    told = [core, _ARTICLE.sub("", core)]
    told += [" ".join([*words[:i], SYNONYMS[word.lower()], *words[i + 1:]])
             for i, word in enumerate(words) if word.lower() in SYNONYMS]
    told += [" ".join(words[:i] + words[i + 1:]) for i in range(len(words)) if len(words) > 1]
    yield from (each for each in dict.fromkeys(told) if each and each != text)
