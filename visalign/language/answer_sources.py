"""Language models side by side: asked the same prompts, their answers drawn with the same seeds."""

import json
from dataclasses import dataclass
from pathlib import Path

from visalign.config import LanguageSettings
from visalign.config.language_answers import AnswerSettings, AskedSettings
from visalign.config.load import asked_settings
from visalign.data.entry import Entry
from visalign.data.generations import find_generations
from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.evaluation.sources import AnswerPlan, SampleSource, holds_plan, run_config
from visalign.language.generate import answers_of_model
from visalign.language.goals import system_in_use
from visalign.storage.files import write_atomically
from visalign.storage.language_models import ADAPTER, WHEELS, locate_language_model
from visalign.storage.weights import read_json


@dataclass(frozen=True)
class AnswerSource(SampleSource):
    """A language model that answers."""

    @property
    def sampled(self) -> bool:
        return True

    def entries(self, plan: AnswerPlan, folder: Path) -> list[Entry]:
        """Its answers, which are drawn into `folder` unless they are there."""
        if not (folder / "samples.jsonl").is_file() or not holds_plan(folder, self.identity, plan):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "settings.json", json.dumps(self.identity | plan.settings()).encode())
            write_answers(answers_of_model(self.source, plan.prompts, plan.seeds, plan.answers, plan.answers.system,
                                           plan.seed, revise=0, device=plan.device), folder)
        return find_generations(folder)


def answer_source(name: str, source: str) -> AnswerSource:
    """A language model, or a finished run of one, to be asked. Raises UserError when it cannot be."""
    path = Path(source).expanduser()
    if path.is_dir() and (path / "config.yaml").is_file():
        if run_config(path).model.vision:
            raise UserError(f"{name} {source}: is a vision-language model, whose answers are compared as they were "
                            "measured while it was trained; leave --prompts and --max-prompts out")
        if not (path / "export").is_dir():
            raise UserError(f"{name} {source}: has not finished, so it has no export")
    found = locate_language_model(source, name)
    weights = [path / "export"] if (path / "export").is_dir() else [path]
    stamps = [file.stat().st_mtime_ns for folder in weights for file in sorted(folder.glob("*.safetensors"))]
    return AnswerSource(name, source, None, {"model": found.source, "file": found.gguf,
                                             "adapters": list(found.adapters), "written": stamps}, texts=True)


def is_language_model(source: str) -> bool:
    """Whether this names a language model that lies here: of a package, a .gguf file, or a folder of transformers or of
    a peft adapter."""
    path = Path(source).expanduser()
    if source in WHEELS or path.suffix.lower() == ".gguf":
        return True
    if not path.is_dir() or (path / "model_index.json").is_file():
        return False
    if (path / "config.json").is_file():
        return "model_type" in read_json(path / "config.json", f"model {source}")
    return (path / ADAPTER).is_file() and read_json(path / ADAPTER, f"model {source}").get("task_type") == "CAUSAL_LM"


def answer_plan(prompts: list[str], seeds: int, seed: int, device: str, config: LanguageSettings | None,
                settings: tuple[str, ...]) -> AnswerPlan:
    """How models are asked: as a run measures its own, or as `key=value` say. Raises UserError."""
    if config is None:
        return AnswerPlan(prompts, seeds, asked_settings(settings), seed, device)
    measured = {name: getattr(config.eval, name) for name in AnswerSettings.model_fields}
    return AnswerPlan(prompts, seeds, AskedSettings(**measured, system=system_in_use(config)), seed, device)
