"""Held-out samples: the same prompts and seeds at every measurement, scored, and reduced to numbers."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from visalign.config import EvaluationSettings
from visalign.data.prompts import read_prompts
from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.evaluation.measure import MetricSuite, metrics_of
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.generators.base import Generator
from visalign.media.samples import Sample
from visalign.media.source_images import sheet_row
from visalign.media.video_files import media_file, save_sheet
from visalign.parallel.sharing import ALONE, Processes
from visalign.rewards import FeatureExtractor, Reward, for_modality, load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.files import write_atomically
from visalign.storage.out_of_memory import memory_told


@dataclass(frozen=True)
class HeldOut:
    """The sampled prompts and seeds, what measures the samples, which reward was optimised, if known, who shares the
    work, and what the prompts are put into before they are sampled, if anything (`put_into`)."""

    settings: EvaluationSettings
    tools: MetricSuite
    proxy: str | None
    processes: Processes = ALONE
    asking: str | None = None

    @memory_told("measuring held-out samples")
    def look(self, generator: Generator, label: str) -> tuple[PromptMetrics, list[Sample]]:
        """Sample and measure, all processes together; a reward that cannot score a sample is named, and that counted.

        Raises UserError when the features of a sample are not finite.
        """
        settings = self.settings
        prompts = read_prompts(settings.prompts, settings.max_prompts)
        samples = make_samples(generator, prompts, settings.samples_per_prompt, steps=settings.steps,
                               guidance_scale=settings.guidance_scale, seed=settings.seed, label=label,
                               batch_size=settings.batch_size, processes=self.processes, asking=self.asking)
        return told_metrics(prompts, samples, self, label), samples


def told_metrics(prompts: list[str], samples: list[Sample], held_out, label: str) -> PromptMetrics:
    """Metrics of held-out samples by what measures them (HeldOut, or what else has its fields); what a reward could not
    score is told. Raises UserError when features are not finite."""
    try:
        found = metrics_of(prompts, samples, held_out.tools, held_out.processes)
    except ValueError as error:
        raise UserError(f"eval.features {held_out.settings.features}: {error}") from None
    for note in found.notes() if held_out.processes.is_first else ():
        tqdm.write(f"{label}: {note}")
    return found


def check_named_once(rewards: list[Reward]) -> None:
    """Raise UserError when two of the rewards to measure have one name."""
    names = [reward.name for reward in rewards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"eval.reward and eval.also: two rewards are named {twice}; leave one out or give it a name "
                        "with {kind: ..., name: ...}")


def load_held_out(settings: EvaluationSettings, device: str, modality: str) -> HeldOut:
    """Raises UserError when two rewards have one name, score another modality, or `features` embeds nothing."""
    def load(spec) -> Reward:
        return for_modality(load_reward(spec, device), modality)

    proxy = [load(settings.reward)] if settings.reward else []
    tools = MetricSuite([*proxy, *map(load, settings.also)],
                        load_features(settings.features, device) if settings.features else None)
    check_named_once(tools.rewards)
    return HeldOut(settings, tools, proxy[0].name if proxy else None)


def load_features(source: str, device: str = "cpu", setting: str = "eval.features") -> FeatureExtractor:
    """What measures diversity. Raises UserError when `source` embeds neither images nor texts."""
    features = load_reward(source, device)
    if not hasattr(features, "sample_features"):
        raise UserError(f"{setting} {source}: is no open_clip model; use tiny-clip, an open_clip folder, or "
                        "clip:ARCHITECTURE/TAG; of texts minilm, or relevance:FOLDER of a sentence encoder")
    return features


def refuse_blind(first: PromptMetrics) -> None:
    """Raise UserError when a reward scores none of the untrained model's samples: it would say nothing all the run."""
    for name, (count, reason) in first.unscored.items():
        if count == len(first.prompts) * first.seeds:
            raise UserError(f"eval: reward {name} could score none of the {count} held-out samples ({reason}); leave "
                            "it out of eval.reward and eval.also, or choose other eval.prompts")


def check_same(first: PromptMetrics, now: PromptMetrics, setting: str) -> None:
    """Raise UserError when a resumed run measures something else than it did at its start."""
    if first.prompts != now.prompts or first.seeds != now.seeds or first.values.keys() != now.values.keys():
        raise UserError(f"{setting}: the prompts, the number of samples or the rewards are not those of the run's "
                        "start, so nothing can be compared; resume with the settings it was started with")


def save_samples(samples: list[Sample], folder: Path) -> None:
    """One file a sample, named by prompt number and sample number, and a labelled grid; of texts samples.jsonl."""
    if any(sample.answer is not None for sample in samples):
        write_answers(samples, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows = samples_by_prompt(samples)
    for i, row in enumerate(rows):
        for j, each in enumerate(row):
            suffix, content = media_file(each.media)
            write_atomically(folder / f"{i:03d}-{j}{suffix}", content)
    save_sheet(list(map(sheet_row, rows)), folder / "grid.png")


def samples_by_prompt(samples: list[Sample]) -> list[list[Sample]]:
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        rows.setdefault(sample.source_prompt, []).append(sample)
    return list(rows.values())
