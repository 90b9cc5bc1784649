"""What a language run leaves for other programs: the adapter in peft's format or the whole model, with a card."""

import json
from importlib.metadata import version
from pathlib import Path

from visalign.config import LanguageConfig, LanguageSettings
from visalign.generators.export.model_card import named_only
from visalign.language.preference import HEADS
from visalign.language.trainer import LanguageTrainer
from visalign.storage.files import write_atomically
from visalign.storage.language_models import LanguageModel


def language_versions() -> dict[str, str]:
    """Versions beside those of every run that decide whether a language run can be reproduced."""
    return {"trl": version("trl")}


def export_language(trainer: LanguageTrainer, model: LanguageModel, folder: Path, figures: dict[str, str]) -> None:
    """Write the trained weights, the tokenizer and a card; with output.merged also the whole model in `merged/`.

    All processes call this, since each may hold a part of the weights; the first one writes.
    """
    config, accelerator = trainer.config, trainer.accelerator
    trained = accelerator.unwrap_model(trainer.loop.model)
    state = accelerator.get_state_dict(trainer.loop.model)
    if not accelerator.is_main_process:
        return
    if config.model.tuning == "lora":
        trained.peft_config["default"].base_model_name_or_path = config.model.source
        state = None if not trainer.loop.is_fsdp_enabled else state
    if state is not None:
        state = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    trained.save_pretrained(folder, state_dict=state)
    (model.processor or model.tokenizer).save_pretrained(folder)
    write_atomically(folder / "README.md", language_card(config, figures).encode())
    if config.output.merged and config.model.tuning == "lora":
        whole = trained.merge_and_unload()
        whole.save_pretrained(folder / "merged")
        (model.processor or model.tokenizer).save_pretrained(folder / "merged")


def _goal_in_words(config: LanguageSettings) -> str:
    """A paragraph on how a model is asked for the highest score."""
    goals = config.data.goals if isinstance(config, LanguageConfig) else None
    return f"\n\nIt learnt to answer as the system's turn asks, and was measured with its best: `{goals.highest}`" \
        if goals else ""


def language_card(config: LanguageSettings, figures: dict[str, str]) -> str:
    """Markdown with a header as model hubs read it; nothing in it names a place on the machine that trained it."""
    source, method = named_only(config.model.source), config.objective["name"]
    settings = named_only(config.model_dump(mode="json", exclude={"output"}))
    header = {"library_name": "peft" if config.model.tuning == "lora" else "transformers",
              "pipeline_tag": "text-generation", "base_model": source, "tags": ["visalign", method]}
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in header.items())
    return f"""---
{lines}
---
# {source} aligned with {method}

Learnt from {' '.join(map(str, named_only(list(config.taught_by()))))}.{_goal_in_words(config)}

## What changed on held-out prompts

| | |
|---|---|
{rows}

## Settings

```json
{json.dumps(settings, indent=1)}
```
"""
