"""What becomes of every pipeline that the installed diffusers exports, as `docs/models.md` says it.

`python -m tests.models` writes that page: each small pipeline is loaded, observed, trained for a step, followed
through a stochastic rollout and its adapter read back by plain diffusers.
"""

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from tests.tiny import CALLS, builders, source_image
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import FAMILIES, Generator, load_generator
from visalign.generators.base import Guidance
from visalign.generators.families import family_of
from visalign.media.source_images import with_sources
from visalign.processes.steps import draw

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
_NOT_OF_SETTINGS = ("image", "mask_image", "negative_prompt", "max_area", "_auto_resize", "use_resolution_binning")
_LENGTHS = ("num_frames", "frames", "video_length")


@dataclass(frozen=True)
class Row:
    """One small pipeline. offline, online: 'yes' or a reason why not; guidance, lora: what was found."""

    pipeline: str
    tiny: str
    makes: str
    process: str
    guidance: str
    offline: str
    online: str
    lora: str

    def __str__(self) -> str:
        return "| " + " | ".join([f"`{self.pipeline}`", f"`{self.tiny}`", *astuple(self)[2:]]) + " |"


@dataclass(frozen=True)
class Refusal:
    """One small pipeline that is refused when it is loaded, in these words."""

    pipeline: str
    tiny: str
    reason: str

    def __str__(self) -> str:
        return f"| `{self.pipeline}` | `{self.tiny}` | {self.reason} |"


def walked(name: str, folder: Path) -> Row | Refusal | None:
    """What becomes of a small pipeline, built in `folder`; None where its class alone is refused."""
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
        reason = str(error).replace(f"model {folder} ({pipeline}): ", "").replace(str(folder), "it")
        return Refusal(pipeline, name, reason)


def _settings(name: str, family: type[Generator], folder: Path) -> ModelSettings:
    call = {key: value for key, value in CALLS[name].items()
            if key not in (*_NOT_OF_SETTINGS, *_LENGTHS, *family.call_options)}
    size = call.pop("height", 16), call.pop("width", 16)
    video = {} if family.modality == "image" else {
        "frames": next(CALLS[name][key] for key in _LENGTHS if key in CALLS[name]), "fps": 8}
    return ModelSettings(source=str(folder), precision="fp32", resolution=list(size), **video,
                         prompt_tokens=call.pop("max_sequence_length", None), call=call)


def _proved(pipeline: str, name: str, generator: Generator, folder: Path) -> Row:
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
    return Row(pipeline, name, f"{generator.modality}s", generator.process.kind, guidance, offline, online,
               _read_back(generator, folder))


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
    return "yes" if (after - before).abs().max() > 0 else "a step on its adapter changes nothing"


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


def _read_back(generator: Generator, folder: Path) -> str:
    return "yes" if hasattr(type(generator.pipeline), "save_lora_weights") else "its pipeline reads none"


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


def page(rows: list[Row], refusals: list[Refusal]) -> str:
    """Markdown of the whole page."""
    refused = refused_classes()
    known = {row.pipeline for row in (*rows, *refusals)} | {name for names in refused.values() for name in names}
    untried = [name for name in pipeline_classes() if name not in known]
    table = "\n".join(map(str, sorted(rows, key=lambda row: (row.pipeline not in FAMILIES, row.pipeline, row.tiny))))
    others = "\n".join(map(str, sorted(refusals, key=lambda row: (row.pipeline, row.tiny))))
    classes = "\n".join(f"- {reason}: {_listed(names)}" for reason, names in refused.items())
    return f"""# Models

Every pipeline class that diffusers exports, and what becomes of it here. A pipeline needs no code of its own: how it
encodes prompts, packs latents, tells the network the time and guides is learnt from one short call, and proved before
anything is trained ([Design](design.md)). This page is written by `python -m tests.models`, which tries each on a
small pipeline of the real class with random weights.

## Trained

*offline*: a step on a LoRA adapter changes a prediction as its gradient says. *online*: a guided stochastic rollout
is finite, its likelihood has a gradient and its end can be decoded. *LoRA export*: diffusers' pipeline reads the
exported file with `load_lora_weights`.

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


def lines_of(name: str, text: str) -> list[str]:
    """The rows of a page that are about a small pipeline."""
    return [line for line in text.splitlines() if re.match(rf"\| `\w+` \| `{name}` \|", line)]


def main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(builders()):
            found.append(walked(name, Path(folder) / name))
            print(found[-1], flush=True)
    PAGE.write_text(page([row for row in found if isinstance(row, Row)],
                         [row for row in found if isinstance(row, Refusal)]))


if __name__ == "__main__":
    main()
