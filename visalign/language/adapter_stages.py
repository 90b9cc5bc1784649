"""What the two stages of Prompt-A-Video learn from, as runs from pairs, and the one adapter that comes of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from visalign.config.adapter import AdaptConfig, ImitationSettings
from visalign.config.language import LanguageConfig
from visalign.config.language_answers import AnswerSettings
from visalign.errors import UserError
from visalign.language.evolve import Attempt, Laboratory
from visalign.language.renders import write_lines
from visalign.language.rewriting import as_rewrite
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.answers import holds_control_tokens
from visalign.storage.weights import read_json
from visalign.trainers.summary import VERDICT

ADAPTER_WEIGHTS, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
SHOWN_ANSWERS = 6
"""Held-out prompts that a stage answers before and after it, for its page."""


@dataclass(frozen=True)
class Floors:
    """Least scores by reward (-inf: any)."""

    names: tuple[str, ...]
    least: tuple[float, ...]

    def passed(self, attempt: Attempt) -> bool:
        return attempt.known and attempt.refused is None and all(
            score >= least for score, least in zip(attempt.scores, self.least, strict=True) if least > -math.inf)

    def check(self, pools: dict[str, list[Attempt]]) -> None:
        """Raise UserError when not one rewrite of any prompt passes: nothing would be learnt."""
        known = [each for pool in pools.values() for each in pool if each.known]
        if not known:
            raise UserError("reward.models: no render of any rewrite has a score, so there is nothing to learn from")
        if any(map(self.passed, known)):
            return
        best = [max((each.scores[i] for each in known), default=math.nan) for i in range(len(self.names))]
        told = ", ".join(f"{name} at least {least:g} (the best rewrite has {value:.3g})" for name, least, value
                         in zip(self.names, self.least, best, strict=True) if least > -math.inf)
        raise UserError(f"reward.floors: none of {len(known)} rewrites passes {told}; take lower floors")


def best_rewrites(pools: dict[str, list[Attempt]], floors: Floors) -> list[Attempt]:
    """Of each prompt the rewrite with the highest weighted sum among those that pass; prompts without one are left
    out. A prompt that is its own best rewrite teaches to leave such prompts alone."""
    passed = [[each for each in pool if floors.passed(each)] for pool in pools.values()]
    return [max(pool, key=lambda each: each.overall) for pool in passed if pool]


def ranked_pairs(candidates: Sequence[Attempt], floors: Floors, gap: float) -> list[tuple[Attempt, Attempt]]:
    """The best and the second best of a prompt's rewrites, where they pass the floors, each against every rewrite that
    is worse by more than `gap` (Prompt-A-Video, section 3.3)."""
    ranked = sorted((each for each in candidates if each.known), key=lambda each: -each.overall)
    return [(chosen, rejected) for chosen in ranked[:2] if floors.passed(chosen)
            for rejected in ranked if chosen.overall - rejected.overall > gap]


def candidate_rewrites(laboratory: Laboratory, answerer: Answerer, pools: dict[str, list[Attempt]]) -> list[Attempt]:
    """`dpo.candidates` rewrites of each prompt by the model, with scores. One that the gate refuses is worth what the
    user's own prompt is, which would be used in its place; it can only be rejected."""
    config, prompts = laboratory.config, list(pools)
    settings = AnswerSettings(**config.rewrite.model_dump(include={"max_tokens", "top_p", "batch_size"}),
                              temperature=config.dpo.temperature)
    asked = [prompt for prompt in prompts if not holds_control_tokens(prompt)]
    drawn = sample_answers(answerer, asked, config.dpo.candidates, settings, seed=config.seed, label="candidates")
    written = dict.fromkeys((each.prompt, as_rewrite(str(each.answer))) for each in drawn)
    tried = laboratory.tried([Attempt(prompt, text, "sft", 0) for prompt, text in written if text
                              and not holds_control_tokens(text)], "candidates")
    own = {prompt: pool[0] for prompt, pool in pools.items()}
    return [each if each.refused is None else Attempt(
        each.prompt, each.rewrite, each.by, 0, own[each.prompt].scores, own[each.prompt].overall, each.refused)
        for each in tried]


def write_imitation(best: Sequence[Attempt], file: Path) -> None:
    write_lines(file, [{"prompt": each.prompt, "completion": each.rewrite} for each in best])


def write_comparisons(candidates: Sequence[Attempt], floors: Floors, gap: float, file: Path) -> int:
    """The pairs of all prompts; returns how many."""
    by_prompt: dict[str, list[Attempt]] = {}
    for each in candidates:
        by_prompt.setdefault(each.prompt, []).append(each)
    pairs = [pair for each in by_prompt.values() for pair in ranked_pairs(each, floors, gap)]
    write_lines(file, [{"prompt": chosen.prompt, "chosen": chosen.rewrite, "rejected": rejected.rewrite,
                        "strength": chosen.overall - rejected.overall, "chosen_reward": chosen.overall,
                        "rejected_reward": rejected.overall} for chosen, rejected in pairs])
    return len(pairs)


def stage_config(config: AdaptConfig, stage: ImitationSettings, name: str, source: str, objective: dict,
                 shown: Sequence[str]) -> LanguageConfig:
    """The run from pairs of a stage, in the folder of its name; source: the model it starts from."""
    folder = Path(config.output.folder).expanduser()
    return LanguageConfig.model_validate({
        "model": config.model.model_dump() | {"source": source, "system": config.rewrite.system},
        "data": {"path": str(folder / f"{name}.jsonl"), "holdout": 0.0},
        "objective": objective, "optim": stage.optim.model_dump(),
        "train": stage.train.model_dump() | {"device": config.device},
        "eval": config.rewrite.model_dump(include={"max_tokens", "temperature", "top_p", "batch_size"}) | {
            "prompts": tuple(shown[:SHOWN_ANSWERS]), "samples_per_prompt": 1},
        "output": {"folder": str(folder / name), "trackers": ()}})


def is_done(folder: Path) -> bool:
    """Whether a stage's run is finished."""
    return (folder / VERDICT).is_file() and (folder / "export" / ADAPTER_WEIGHTS).is_file()


def joined_adapters(exports: Sequence[Path], base: str, folder: Path) -> None:
    """Write one LoRA that does what several do after each other: the sum of s_i B_i A_i has the factors [s_1 B_1, s_2
    B_2, ...] and [A_1; A_2; ...], of the sum of their ranks."""
    settings = [read_json(each / ADAPTER_SETTINGS, f"run {each}") for each in exports]
    states = [load_file(each / ADAPTER_WEIGHTS) for each in exports]
    layers = sorted({name.rpartition(".lora_")[0] for state in states for name in state})
    joined: dict[str, Tensor] = {}
    for layer in layers:
        parts = [(state[f"{layer}.lora_A.weight"], scale_of(own) * state[f"{layer}.lora_B.weight"])
                 for own, state in zip(settings, states, strict=True)]
        joined[f"{layer}.lora_A.weight"] = torch.cat([a for a, _ in parts])
        joined[f"{layer}.lora_B.weight"] = torch.cat([b for _, b in parts], 1)
    rank = sum(own["r"] for own in settings)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(joined, folder / ADAPTER_WEIGHTS)
    own = settings[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False, "base_model_name_or_path": base}
    (folder / ADAPTER_SETTINGS).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")


def scale_of(settings: dict) -> float:
    """Of a LoRA's product: alpha / r, or alpha / sqrt(r) (rsLoRA)."""
    return settings["lora_alpha"] / (math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"])
