"""What a user should know of a model before training it, beyond what is refused."""

import re

from visalign.generators.base import Generator
from visalign.generators.families.hints import PassAll

_FEW_STEPS = re.compile(r"turbo|schnell|lightning|hyper-?sd|\blcm\b|distill", re.IGNORECASE)


def remarks(generator: Generator, source: str, on_noised: bool) -> list[str]:
    """Sentences, each beginning with the model's source; none for most models.

    on_noised: whether the loss is of predictions at noised samples, rather than along the model's own steps.
    """
    found = []
    distilled = generator.pipeline.config.get("is_distilled") or _FEW_STEPS.search(source)
    if distilled and on_noised:
        found.append(f"model {source}: was distilled to sample in a few steps, which a loss on noised samples undoes; "
                     "train its base checkpoint, or use grpo on its own few steps, as others do")
    elif distilled:
        found.append(f"model {source}: was distilled to sample in a few steps; sample as it is made for (rollout.steps "
                     "of at most 8, guidance_scale 1)")
    if generator.conventions.companions:
        found.append(f"model {source}: makes sound too, which is not trained: in its place the network sees noise at "
                     "the video's level, and samples have the model's own")
    if any(isinstance(part, PassAll) for part in generator.pipeline.components.values()):
        found.append(f"model {source}: its safety checker is not loaded; its licence may ask for one where samples are "
                     "published")
    return found
