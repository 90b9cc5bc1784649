"""The model card of an export: what it is, how to load it, what it was measured to change, with which settings.

Nothing in it names a place on the machine that trained it.
"""

import functools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from visalign.config import OfflineConfig, OnlineConfig
from visalign.generators.base import Generator
from visalign.generators.lora.export import loading_lines

VERSIONED = ("visalign", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch")
_MODALITIES = {"image": "text-to-image", "video": "text-to-video"}
_SAMPLES = "before_after.png"


@functools.cache
def versions() -> dict[str, str]:
    """Versions that decide whether a run can be reproduced."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONED}


def named_only(value: Any) -> Any:
    """Settings in which every path on this machine is its last part alone."""
    if isinstance(value, dict):
        return {key: named_only(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [named_only(each) for each in value]
    if isinstance(value, str) and is_local_path(value):
        return Path(value).name
    return value


def is_local_path(text: str) -> bool:
    """Whether a setting's text is a path on this machine: one that says so, or one that exists."""
    beginnings = ("/", "~", "./", "../", ".\\")
    return text.startswith(beginnings) or (os.sep in text and len(text) < 1000 and Path(text).exists())


def model_card(config: OfflineConfig | OnlineConfig, generator: Generator, figures: dict[str, str]) -> str:
    """Markdown with a header as model hubs read it."""
    source, method = named_only(config.model.source), config.objective["name"]
    settings = named_only(config.model_dump(mode="json", exclude={"output"}))
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""---
{_header(config, generator, method)}
---
# {source} aligned with {method}

```python
from diffusers import {type(generator.pipeline).__name__}

{_loading(generator, source)}
```

Data: {' '.join(named_only(config.taught_by()))}.{_held_in_words(config)}{_goal_in_words(config)}

| measured on held-out prompts | |
|---|---|
{rows}

## Settings
```json
{json.dumps(settings, indent=2)}
```

## Versions
{_versions_in_words()}
"""


def soup_card(config: OfflineConfig | OnlineConfig, generator: Generator, words: str,
              parts: list[tuple[str, str, float]]) -> str:
    """The card of a weighted average of runs; config: of one of them. parts: run, method and weight of each."""
    source = named_only(config.model.source)
    rows = "\n".join(f"| {run} | {method} | {weight:g} |" for run, method, weight in parts)
    return f"""---
{_header(config, generator, "model-soup")}
---
# {source}, with averaged weights

```python
from diffusers import {type(generator.pipeline).__name__}

{_loading(generator, source)}
```

Its weights are {words}.

| run | method | weight |
|---|---|---|
{rows}

## Versions
{_versions_in_words()}
"""


def _versions_in_words() -> str:
    return ", ".join(f"{name} {number}" for name, number in versions().items())


def _header(config: OfflineConfig | OnlineConfig, generator: Generator, method: str) -> str:
    from huggingface_hub import ModelCardData

    lora, source = generator.tuning == "lora", config.model.source
    of_hub = {"base_model": source} if not is_local_path(source) and source.count("/") == 1 else {}
    tags = ["diffusers", "preference-alignment", method, *(["lora", "template:sd-lora"] * lora)]
    return ModelCardData(**of_hub, library_name="diffusers", pipeline_tag=_task(generator), tags=tags).to_yaml()


def _held_in_words(config: OfflineConfig | OnlineConfig) -> str:
    """A paragraph on the LoRAs that lay below what was trained."""
    names = ", ".join(f"{Path(each.path).name} at strength {each.strength:g}" for each in config.model.loras)
    return f"\n\nWhat lay below the training is in these files as well ({names}): load them into the base checkpoint " \
           "alone." if names else ""


def _goal_in_words(config: OfflineConfig | OnlineConfig) -> str:
    """A paragraph on how a model is asked for the highest score."""
    return "\n\nIt learnt to make samples of the score that a prompt asks for, and was measured with the highest: " \
           f"write `{config.goals.highest}` with your prompt in the place of {{prompt}}, or use `visalign generate " \
           "--goal best`." if config.goals else ""


def _task(generator: Generator) -> str:
    return "image-to-image" if generator.sources else _MODALITIES[generator.modality]


def _loading(generator: Generator, source: str) -> str:
    pipeline = type(generator.pipeline).__name__
    if generator.tuning == "lora":
        return f'pipeline = {pipeline}.from_pretrained("{source}")\n{loading_lines(generator)}'
    if generator.tuning == "user":
        return (f'pipeline = {pipeline}.from_pretrained("{source}")\n'
                "# diffusers cannot tell it of a user; visalign can, by a table of prompt, chosen, rejected:\n"
                f'#   visalign generate {source} "a prompt" --lora path/to/this/folder --user pairs.jsonl -o samples')
    return f'pipeline = {pipeline}.from_pretrained("path/to/this/folder/pipeline")'
