"""Prompts that leave one aspect open, so that diversity along it can be measured: identity, style, layout, tone.

After the four axes of DivGenBench (arXiv 2512.24146); the prompts are our own. `families:AXIS` is for general
models, `families:tiny-AXIS` for the embedded ones, which know emoji drawings only.
"""

import functools
import itertools

from visalign.data.embedded_images import emoji_captions
from visalign.errors import UserError, nearest

PEOPLE = ("person", "woman", "man", "child", "teenager", "doctor", "farmer", "musician", "teacher", "athlete", "chef",
          "scientist")
SHOTS = ("a portrait photo of a {}", "a {} smiling at the camera", "a close-up of a {}'s face, natural light")
SUBJECTS = ("a harbour at dawn", "a bowl of fruit", "a dancer", "a mountain village", "a horse in a field",
            "a woman reading", "a city street in the rain", "a vase of flowers", "a ship at sea", "an old tree",
            "a night sky", "a market square")
PAINTED = ("a painting of {}", "an artwork showing {}")
COUNTED = ("two apples", "three cups", "four books", "a cat and a dog", "a chair and a table", "five balloons",
           "a bicycle and a bench", "three birds", "a lamp and a vase", "two bottles and a plate")
PLACED = ("{} on a plain background", "a photo of {} in a room")
SCENES = ("a forest path", "a kitchen", "a beach", "a city skyline", "a snowy road", "a train station", "a desert",
          "a garden", "a lake", "a workshop")
TAKEN = ("a photo of {}", "a photograph of {}, no particular time of day")

FAMILIES: dict[str, list[str]] = {
    "identity": [shot.format(who) for who, shot in itertools.product(PEOPLE, SHOTS)],
    "style": [how.format(what) for what, how in itertools.product(SUBJECTS, PAINTED)],
    "layout": [where.format(what) for what, where in itertools.product(COUNTED, PLACED)],
    "tone": [how.format(what) for what, how in itertools.product(SCENES, TAKEN)],
}


@functools.cache
def _tiny(axis: str) -> tuple[str, ...]:
    """Captions that name no particular drawing: kinds for identity and layout, kinds with a colour for tone."""
    every = [*emoji_captions("train"), *emoji_captions("held_out")]
    colours = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
    kinds = sorted(text for text in every if text.startswith(("a ", "an ")))
    coloured = [text for text in kinds if any(f" {colour} " in text for colour in colours)]
    plain = [text for text in kinds if text not in coloured]
    return tuple(coloured if axis == "tone" else plain)


def family_prompts(axis: str) -> list[str]:
    """Prompts of one axis, or of `all`. Raises UserError for an unknown one."""
    name = axis.removeprefix("tiny-")
    if name == "all":
        tiny = "tiny-" * axis.startswith("tiny-")
        return list(dict.fromkeys(prompt for each in FAMILIES for prompt in family_prompts(tiny + each)))
    if name not in FAMILIES:
        raise UserError(f"prompts families:{axis}: no such family{nearest(name, FAMILIES)}; for the embedded "
                        "models put tiny- before its name")
    return list(_tiny(name)) if axis.startswith("tiny-") else FAMILIES[name]


def family_rows(prompts: list[str], axis: str) -> list[int]:
    """Indices of the prompts of this family; of all prompts unless each belongs to some family."""
    of = {name: {*FAMILIES[name], *_tiny(name)} for name in FAMILIES}
    if set(prompts) <= set.union(*of.values()):
        return [p for p, prompt in enumerate(prompts) if prompt in of[axis]]
    return list(range(len(prompts)))
