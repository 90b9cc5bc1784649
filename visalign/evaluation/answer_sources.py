"""Language models side by side: asked the same prompts, their answers drawn with the same seeds."""

import json
from dataclasses import dataclass
from pathlib import Path

from visalign.config import LanguageSettings
from visalign.config.language_answers import AnswerSettings, AskedSettings
from visalign.config.load import answers_of
from visalign.data.entry import Entry
from visalign.data.generations import find_generations
from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.evaluation.sources import SampleSource, holds_plan, is_language_run, run_config
from visalign.storage.files import write_atomically
from visalign.storage.language_models import ADAPTER, WHEELS, locate_language_model
from visalign.storage.weights import read_json


@dataclass(frozen=True)
class AnswerPlan:
    """How language models are asked, the same for all. seeds: answers to each prompt."""

    prompts: list[str]
    seeds: int
    answers: AskedSettings
    seed: int = 0
    device: str = "auto"

    def settings(self) -> dict:
        """What determines the answers beside the model."""
        return {"prompts": self.prompts, "samples": self.seeds, "seed": self.seed,
                **self.answers.model_dump(mode="json", exclude={"batch_size"})}

    def about(self) -> dict:
        """The same in words."""
        return {"tokens at most": self.answers.max_tokens, "temperature": self.answers.temperature,
                "first seed": self.seed}


@dataclass(frozen=True)
class AnswerSource(SampleSource):
    """A language model that answers."""

    @property
    def sampled(self) -> bool:
        return True

    def entries(self, plan: AnswerPlan, folder: Path) -> list[Entry]:
        """Its answers, which are drawn into `folder` unless they are there."""
        from visalign.language.generate import answers_of_model

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


def is_run_of_language(source: str) -> bool:
    """Whether this is the folder of a language model's run."""
    path = Path(source).expanduser()
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir() and is_language_run(path)


def answer_plan(prompts: list[str], seeds: int, seed: int, device: str, config: LanguageSettings | None,
                settings: tuple[str, ...]) -> AnswerPlan:
    """How models are asked: as a run measures its own, or as `key=value` say. Raises UserError."""
    from visalign.language.goals import system_in_use

    if config is None:
        return AnswerPlan(prompts, seeds, answers_of(settings), seed, device)
    measured = {name: getattr(config.eval, name) for name in AnswerSettings.model_fields}
    return AnswerPlan(prompts, seeds, AskedSettings(**measured, system=system_in_use(config)), seed, device)
