"""What becomes of every pipeline that the installed diffusers exports, as `docs/models.md` says it.

`python -m tests.models [NAME ...]` writes that page: each small pipeline is loaded, observed, trained for a step, and
followed through a stochastic rollout.
"""

import json
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

from tests.tiny import CALLS, builders, source_image
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import Generator, load_generator
from visalign.generators.base import Guidance
from visalign.generators.families.registry import family_of
from visalign.generators.lora.export import loading_lines
from visalign.media.source_images import with_sources
from visalign.processes.steps import draw

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
_NOT_OF_SETTINGS = ("image", "mask_image", "negative_prompt", "max_area", "_auto_resize", "use_resolution_binning")
_LENGTHS = ("num_frames", "frames", "video_length")


TRAINED, REFUSED = 8, 3
"""Cells of a row about a small pipeline: that is trained, or refused when it is loaded."""


def walked(name: str, folder: Path) -> str | None:
    """The row about a small pipeline, built in `folder`; None where its class alone is refused."""
    if not (folder / "model_index.json").exists():
        builders()[name](folder)
    pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    try:
        family = family_of(pipeline)
    except UserError:
        return None
    torch.manual_seed(0)
    try:
        return _proved(pipeline, name, load_generator(_settings(name, family, folder), "cpu"), folder)
    except UserError as error:
        reason = re.sub(rf"^model {re.escape(str(folder))}( \({pipeline}\))?: ", "", str(error))
        return _row(f"`{pipeline}`", f"`{name}`", re.sub(r" \(\S+ is left over\)", "", reason))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _settings(name: str, family: type[Generator], folder: Path) -> ModelSettings:
    call = {key: value for key, value in CALLS[name].items()
            if key not in (*_NOT_OF_SETTINGS, *_LENGTHS, *family.call_options)}
    size = call.pop("height", 16), call.pop("width", 16)
    video = {} if family.modality == "image" else {
        "frames": next(CALLS[name][key] for key in _LENGTHS if key in CALLS[name]), "fps": 8}
    return ModelSettings(source=str(folder), precision="fp32", resolution=list(size), **video,
                         prompt_tokens=call.pop("max_sequence_length", None), call=call)


def _proved(pipeline: str, name: str, generator: Generator, folder: Path) -> str:
    own = generator.conventions
    guidance = "an input of the network" if own.embedded else "none" if own.guidance is None else \
        "two predictions" if own.guidance.renormalise == "none" else \
        f"two predictions, renormalised over the {own.guidance.renormalise.removeprefix('whole ')}"
    prompt = "a red fruit"
    if generator.sources is not None:
        source_image(*generator.shape.size[::-1]).save(folder / "source.png")
        prompt = with_sources(prompt, [folder / "source.png"])
    offline = _trained(generator, prompt)
    online = _rolled_out(generator, prompt) if offline == "yes" else offline
    return _row(f"`{pipeline}`", f"`{name}`", f"{generator.modality}s", generator.process.kind, guidance, offline,
                online, _export(generator))


def _trained(generator: Generator, prompt: str) -> str:
    """A step of gradient descent on a LoRA adapter."""
    parameters = generator.make_trainable("lora", rank=2, alpha=2.0)
    conditioning, t = generator.encode_prompts([prompt]), generator.process.times_at(torch.tensor([0.6]))
    height, width = generator.shape.size
    frames = (generator.shape.frames,) if generator.modality == "video" else ()
    latents = generator.encode_media(torch.rand(1, 3, *frames, height, width) * 2 - 1)
    noise = torch.randn_like(latents)
    x = generator.process.add_noise(latents, noise, t)
    before = generator.predict(x, t, conditioning)
    (before - generator.process.target(latents, noise, t)).square().mean().backward()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad / parameter.grad.norm().clamp(min=1e-12)
        after = generator.predict(x, t, conditioning)
    if not after.isfinite().all():
        return "its prediction is not finite"
    if not (after - before).abs().max() > 0:
        return "a step changes nothing"
    return "yes"


def _rolled_out(generator: Generator, prompt: str) -> str:
    """Two stochastic steps with guidance, the last one's likelihood with a gradient, and what they led to decoded."""
    conditioning, negative = generator.encode_prompts([prompt]), generator.encode_negatives([prompt])
    x, times = torch.randn(1, *generator.latent_shape()), generator.schedule(3)
    sampler, level = generator.process.STOCHASTIC
    for t, t_next in zip(times[:2, None], times[1:3, None], strict=True):
        velocity = generator.predict(x, t, conditioning, Guidance(2.0, negative))
        moments = generator.process.moments(velocity, x, t, t_next, sampler, level)
        x = draw(moments, torch.randn_like(x)).detach()
    moments.mean.square().mean().backward()
    with torch.no_grad():
        generator.decode(x)
    return "yes" if x.isfinite().all() else "its guided prediction is not finite"


def _export(generator: Generator) -> str:
    """What reads the exported file in plain diffusers."""
    lines = loading_lines(generator)
    return next(reader for word, reader in (("load_lora_weights", "the pipeline"), ("load_lora_adapter", "the network"),
                                            ("PeftModel", "peft")) if word in lines)


def pipeline_classes() -> list[str]:
    """Names of the pipelines that diffusers exports."""
    import diffusers

    return sorted(name for name in dir(diffusers) if name.endswith("Pipeline"))


def refused_classes() -> dict[str, list[str]]:
    """Classes by the reason for which they are refused before anything is read."""
    found = defaultdict(list)
    for name in pipeline_classes():
        try:
            family_of(name)
        except UserError as error:
            found[str(error).removeprefix(f"{name}: ")].append(name)
    return dict(sorted(found.items()))


def rows_of(text: str) -> dict[str, str]:
    """The rows about small pipelines in a page, by their names."""
    return {found[1]: found[0] for found in re.finditer(r"^\| `\w+` \| `(\w+)` \|.*$", text, re.MULTILINE)}


def page(rows: dict[str, str]) -> str:
    """Markdown of the whole page, with these rows about small pipelines."""
    refused, cells = refused_classes(), {name: row.strip("| ").split(" | ") for name, row in rows.items()}
    tried = {each[0].strip("`") for each in cells.values()}
    untried = [name for name in pipeline_classes() if name not in tried and
               not any(name in names for names in refused.values())]
    ordered = sorted(cells, key=lambda name: cells[name][:2])
    table, others = ("\n".join(rows[name] for name in ordered if len(cells[name]) == width)
                     for width in (TRAINED, REFUSED))
    classes = "\n".join(f"- {reason}: {_listed(names)}" for reason, names in refused.items())
    return f"""# Models

Every pipeline class that diffusers exports, and what becomes of it here. A pipeline needs no code of its own: how it
encodes prompts, packs latents, tells the network the time and guides is learnt from one short call, and proved before
anything is trained. This page is written by `python -m tests.models`, which tries each on a small pipeline of the real
class with random weights.

## Trained

*offline*: after a step of gradient descent a LoRA adapter changes the prediction. *online*: a guided stochastic rollout
is finite, its last step has a gradient, and what it leads to is decoded. *LoRA export*: what reads the exported file in
plain diffusers; the run's model card has the lines. Cosmos's safety checker is never run here; its licence asks for it
where such a model is used, and an exported pipeline loads it as before.

| pipeline | tried on | makes | process | guidance | offline | online | LoRA export |
|---|---|---|---|---|---|---|---|
{table}

## Accepted, and not tried

No small pipeline of these classes was made. They are observed and proved when they are loaded, as any other: what is
not understood is said then, in one sentence.

{_listed(untried)}

## Refused when they are loaded

| pipeline | tried on | why |
|---|---|---|
{others}

## Refused by their class

{classes}
"""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(names: list[str]) -> None:
    """Try these small pipelines, or all, and write the page."""
    rows = rows_of(PAGE.read_text()) if names else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or sorted(builders()):
            row = walked(name, Path(folder) / name)
            print(row or f"{name}: refused by its class", flush=True)
            rows = {key: value for key, value in rows.items() if key != name} | ({name: row} if row else {})
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
