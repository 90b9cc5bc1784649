"""The LoRAs that a model has before it is trained: those held below, and the one that is trained on."""

from pathlib import Path

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.lora.layers import Beneath, Layers, changes_nothing, joined, one_kind


def beneath(generator: Generator, settings: ModelSettings) -> Beneath:
    """Read what the settings name and fit it to a generator, perhaps on the meta device.

    Raises UserError for a file that does not fit, changes nothing, or cannot be used so.
    """
    held: dict[str, Layers] = {}
    for each in settings.loras:
        for part, layers in _fitted(generator, each.path, "model.loras").items():
            kind = one_kind(layers.values(), f"model.loras {each.path}")
            if kind != "lora":
                raise UserError(f"model.loras {each.path}: is a {kind}, and only plain LoRAs can be held below; train "
                                "on it with model.lora.start, or merge it into the checkpoint first")
            scaled = {module: matrices.folded(each.strength) for module, matrices in layers.items()}
            held[part] = joined(held.get(part, {}), scaled)
    return _with_start(generator, settings, held)


def _with_start(generator: Generator, settings: ModelSettings, held: dict[str, Layers]) -> Beneath:
    if settings.lora.start is None:
        return Beneath(held, {})
    where = f"model.lora.start {settings.lora.start}"
    found = _fitted(generator, settings.lora.start, "model.lora.start")
    start = {part: layers for part, layers in found.items() if part in generator.networks()}
    if not start:
        raise UserError(f"{where}: is for text encoders alone, which are not trained; name it in model.loras")
    kind = one_kind((each for layers in found.values() for each in layers.values()), where)
    if held and kind != "lora":
        raise UserError(f"{where}: is a {kind}, and one file cannot hold it and model.loras; leave one of them out")
    texts = {part: layers for part, layers in found.items() if part not in start}
    if settings.reference == "base" and (texts or held.keys() - generator.networks()):
        raise UserError(f"model.reference base: the LoRAs of this run change the text encoders ({', '.join(texts)}), "
                        "whose embeddings the reference shares; use model.reference=start")
    return Beneath(held | {part: joined(held[part], layers) if part in held else layers
                           for part, layers in texts.items()}, start)


def _fitted(generator: Generator, path: str, setting: str) -> dict[str, Layers]:
    try:
        found = generator.fit_adapter(Path(path).expanduser())
    except UserError as error:
        raise UserError(f"{setting}: {error}") from None
    if changes_nothing(found):
        raise UserError(f"{setting} {path}: all its products are 0, so it changes nothing; leave it out")
    return found
