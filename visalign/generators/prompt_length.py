"""Prompts that are longer than every text encoder reads: their number and the longest of them, in one notice."""

from collections.abc import Iterable

from visalign.errors import notice
from visalign.generators.base import Generator


def limits(generator: Generator) -> dict[str, int]:
    """Tokens that each text encoder takes, by its tokenizer: CLIP's own number, for all others `prompt_tokens`."""
    found = {}
    for name, encoder in generator.text_encoders().items():
        tokenizer = name.replace("text_encoder", "tokenizer")
        if hasattr(generator.pipeline, tokenizer):
            is_clip = type(encoder).__name__.startswith("CLIP")
            found[tokenizer] = _tokenizer(generator, tokenizer).model_max_length if is_clip else generator.prompt_tokens
    return found


def _tokenizer(generator: Generator, name: str):
    """A tokenizer of the pipeline, perhaps inside a processor of texts and images."""
    part = getattr(generator.pipeline, name)
    return getattr(part, "tokenizer", part)


def unread_tokens(generator: Generator, prompts: list[str]) -> dict[str, list[int]]:
    """How many tokens of each prompt each text encoder does not read, by its tokenizer."""
    texts = list(map(generator.text_of, prompts))
    return {name: [max(0, len(row) - limit)
                   for row in _tokenizer(generator, name)(texts, truncation=False, verbose=False).input_ids]
            for name, limit in limits(generator).items()} if texts else {}


def say_what_is_cut(generator: Generator, prompts: Iterable[str], where: str) -> int:
    """Count the prompts that every text encoder truncates, and print a notice starting with `where`."""
    prompts, most = list(dict.fromkeys(map(generator.text_of, prompts))), limits(generator)
    if not prompts or not most:
        return 0
    missed = list(map(min, zip(*unread_tokens(generator, prompts).values(), strict=True)))
    cut = sum(number > 0 for number in missed)
    if cut:
        worst = max(range(len(prompts)), key=missed.__getitem__)
        limit = max(most.values())
        notice(f"{where}: {cut} of {len(prompts)} prompts are longer than the {limit} tokens that this model reads and "
               f"are cut off there, the longest by {missed[worst]} tokens ('{prompts[worst][:60]}…')")
    return cut
