"""Prompt-A-Video (arXiv 2412.15156): a language model learns to write the prompts that suit a frozen generator.

    evolve   a pool of rewrites of each prompt, tried by rendering and scoring them (evolve.py)
    sft      it imitates the best rewrite of each prompt
    dpo      it learns from pairs of its own rewrites, rendered on the same seeds and scored
    export   one adapter of both stages, with rewrite.json: what it is asked, and the gate of its answers
    measure  held-out prompts and seeds: against the user's prompt, the base model's rewrite and the best of N seeds

Each stage reads what the run's folder holds of it, so a run that was killed continues.
"""

import gc
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from visalign.config.adapter import AdaptConfig, SavedRewriting
from visalign.config.language import LanguageConfig
from visalign.config.load import build_objective
from visalign.config.online import RewardTerm
from visalign.data.prompts import read_prompts
from visalign.errors import UserError, nearest, notice
from visalign.evaluation.held_out import load_features
from visalign.generators import load_generator, locate_model
from visalign.generators.export.model_card import named_only
from visalign.generators.files.locating import sampling_for
from visalign.generators.hardware.devices import pick_device
from visalign.language.adapter_measures import (
    BASE,
    IMITATED,
    OURS,
    RAW,
    HeldOutRenders,
    measures_of,
    render_held_out,
    wanted_of,
)
from visalign.language.adapter_measures import held_out_rows as rows_of_held_out
from visalign.language.adapter_stages import (
    Floors,
    best_rewrites,
    candidate_rewrites,
    is_done,
    joined_adapters,
    stage_config,
    write_comparisons,
    write_imitation,
)
from visalign.language.convert import trl_arguments
from visalign.language.evolve import Attempt, Laboratory, evolve, parse_rate, read_attempts, write_attempts
from visalign.language.renders import RenderStore, read_lines_of, write_lines
from visalign.language.rewriting import (
    Gate,
    Rewritten,
    fallbacks_in_words,
    rewriter_of,
    save_rewriting,
)
from visalign.language.run import train_language
from visalign.language.sampling import Answerer
from visalign.language.trl import check_trl
from visalign.media.source_images import is_edit
from visalign.parallel.sharing import doing
from visalign.storage.files import write_atomically, written
from visalign.storage.language_models import load_language_model, locate_language_model
from visalign.storage.run_folder import RunFolder, holds_run
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.stopping import heard

MEASURES = "measures.json"
STAGES = "stages.json"


@dataclass(frozen=True)
class AdaptPlan:
    """What is known before a model is loaded: settings with steps and guidance filled in, prompts to learn from and to
    measure on, and what the generator makes."""

    config: AdaptConfig
    prompts: tuple[str, ...]
    measured: tuple[str, ...]
    modality: str


def check_adapt(config: AdaptConfig) -> AdaptPlan:
    """Find every mistake that can be known before a model is loaded. Raises UserError."""
    check_trl("lm adapt")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("lm adapt: runs in one process; start it without accelerate launch or torchrun")
    locate_language_model(config.model.source)
    family = locate_model(config.generator.model).family
    sampling = sampling_for(config.generator.model, config.generator.steps, config.generator.guidance_scale)
    config = config.model_copy(update={"generator": config.generator.model_copy(update={
        "steps": sampling.steps, "guidance_scale": sampling.guidance_scale})})
    measured = tuple(dict.fromkeys(read_prompts(config.eval.prompts, config.eval.max_prompts)))
    learnt = [prompt for prompt in dict.fromkeys(read_prompts(config.prompts)) if prompt not in measured]
    prompts = tuple(learnt[:config.max_prompts])
    if not prompts:
        raise UserError(f"prompts {config.prompts}: every prompt is among eval.prompts, which are never learnt from")
    if any(map(is_edit, (*prompts, *measured))):
        raise UserError("prompts: some name source images, and prompts of edits are not rewritten")
    family.check_prompts(list((*prompts, *measured)), "prompts")
    check_scoring(config, family.modality)
    Gate(config.gate, None)
    for name, stage, objective in stages_of(config):
        made = stage_config(config, stage, name, config.model.source, objective, measured)
        trl_arguments(made, "DPOConfig", made.output.folder)
    return AdaptPlan(config, prompts, measured, family.modality)


def stages_of(config: AdaptConfig):
    """(name, settings, objective) of what is trained. Raises UserError for an objective that compares no answers."""
    if "rejected" not in build_objective(config.dpo.objective, loop=LanguageConfig.methods).needs:
        raise UserError(f"dpo.objective {config.dpo.objective['name']}: learns from chosen answers alone; name one of "
                        "pairs, such as dpo")
    return (("sft", config.sft, {"name": "sft"}), ("dpo", config.dpo, config.dpo.objective))


def check_scoring(config: AdaptConfig, modality: str) -> None:
    """Raise UserError for rewards that do not score this modality alone and one by one, or unknown floors."""
    rewards = held_out_rewards(config, "cpu", modality)
    learnt = RewardSet(config.reward, "cpu", modality)
    for term in rewards.terms:
        if term.reward.needs_group:
            raise UserError(f"reward {term.name}: compares samples with each other, so a score cannot be kept for one "
                            "rewrite and compared with those of another round")
    for name in config.reward.floors:
        if name not in learnt.names:
            raise UserError(f"reward.floors.{name}: no reward of reward.models has that name"
                            f"{nearest(name, learnt.names)}")
    if config.eval.features:
        load_features(config.eval.features)


def held_out_rewards(config: AdaptConfig, device: str, modality: str) -> RewardSet:
    """The rewards that are learnt from, and those that are only reported."""
    more = tuple(RewardTerm(reward=spec, weight=0.0) for spec in config.eval.also)
    return RewardSet(config.reward.model_copy(update={"models": (*config.reward.models, *more)}), device, modality)


@dataclass
class AdaptRun:
    """One run from its first stage to its last."""

    plan: AdaptPlan
    run: RunFolder
    device: str

    @property
    def config(self) -> AdaptConfig:
        return self.plan.config

    @property
    def path(self) -> Path:
        return self.run.path

    @cached_property
    def generator(self):
        return load_generator(self.config.generator.model, self.device)

    @cached_property
    def laboratory(self) -> Laboratory:
        rewards = RewardSet(self.config.reward, self.device, self.plan.modality)
        store = RenderStore(self.path, self.generator, self.config.generator, rewards)
        return Laboratory(self.config, store, Gate(self.config.gate, self.generator, self.device))

    @cached_property
    def floors(self) -> Floors:
        names = self.laboratory.store.rewards.names
        return Floors(names, tuple(self.config.reward.floors.get(name, -math.inf) for name in names))

    def answerer(self, source: str) -> Answerer:
        model = load_language_model(source)
        model.model.to(self.device)
        return Answerer(model.model, model.tokenizer, self.config.rewrite.system)

    def note(self, **figures: Any) -> None:
        """Keep figures of the stages, for the page, and print them."""
        file = self.path / STAGES
        known = written(file) if file.is_file() else {}
        write_atomically(file, (json.dumps(known | figures, indent=1) + "\n").encode())

    @cached_property
    def held_out(self) -> RenderStore:
        rewards = held_out_rewards(self.config, self.device, self.plan.modality)
        return RenderStore(self.path / "held_out", self.generator, self.config.generator, rewards)

    def check_held_out(self) -> None:
        """Score the renders of the held-out prompts themselves. Raises UserError for a reward that scores none: it
        would say nothing when all is learnt."""
        doing("rendering held-out prompts")
        wanted = wanted_of(unchanged(self.plan.measured), self.config.eval)
        known = self.held_out.score(wanted, f"held out: {RAW}").isfinite().any(0).tolist()
        for name, scored in zip(self.held_out.rewards.names, known, strict=True):
            if not scored:
                raise UserError(f"eval: reward {name} scores none of the {len(wanted)} renders of the held-out "
                                "prompts; leave it out of reward.models and eval.also, or choose other eval.prompts")

    def evolved(self) -> dict[str, list[Attempt]]:
        """The pools of all prompts; nobody's floors unreached, or it ends here."""
        doing("evolving rewrites")
        last = self.path / "evolve" / f"round-{self.config.evolve.rounds}.jsonl"
        asks = self.config.evolve.llm and not last.is_file()
        pools = evolve(self.laboratory, self.plan.prompts, self.answerer(self.config.model.source) if asks else None,
                       self.path)
        self.floors.check(pools)
        tried = [each for pool in pools.values() for each in pool[1:]]
        rate = parse_rate(self.path)
        best = best_rewrites(pools, self.floors)
        figures = {"prompts": len(pools), "rewrites tried": len(tried),
                   "rewrites that the gate refused": sum(each.refused is not None for each in tried),
                   "rewrites without a score": sum(each.refused is None and not each.known for each in tried),
                   "language model's answers in the format": f"{rate[0]} of {rate[1]}" if rate else "not asked",
                   "prompts with a rewrite to learn": len(best),
                   "best by": {who: sum(each.by == who for each in best) for who in ("user", "rules", "llm")}}
        self.note(evolve=figures)
        notice(f"evolve: {len(tried)} rewrites of {len(pools)} prompts tried; the language model kept the format in " +
               (f"{rate[0]} of {rate[1]} answers" if rate else "none, since it was not asked"))
        return pools

    def trained(self, name: str, source: str) -> Path:
        """The folder of a stage's finished run, trained from what `{name}.jsonl` holds."""
        stage, objective = next((stage, objective) for own, stage, objective in stages_of(self.config) if own == name)
        made = stage_config(self.config, stage, name, source, objective, self.plan.measured)
        folder = Path(made.output.folder)
        if not is_done(folder):
            doing(f"learning, stage {name}")
            train_language(made, resume=holds_run(folder))
            gc.collect()  # a trainer and what it holds refer to each other
        return folder

    def imitated(self, pools: dict[str, list[Attempt]]) -> Path:
        file = self.path / "sft.jsonl"
        if not file.is_file():
            write_imitation(best_rewrites(pools, self.floors), file)
        return self.trained("sft", self.config.model.source)

    def compared(self, pools: dict[str, list[Attempt]], start: Path) -> Path | None:
        """The folder of the second stage; None where no two rewrites are further apart than the gap."""
        file, config = self.path / "dpo.jsonl", self.config
        if not file.is_file():
            doing("rendering candidates")
            candidates = self.path / "candidates.jsonl"
            if not candidates.is_file():
                write_attempts(candidates, candidate_rewrites(self.laboratory, self.answerer(str(start)), pools))
            tried = read_attempts(candidates)
            count = write_comparisons(tried, self.floors, config.dpo.gap, file)
            self.note(dpo={"candidates": len(tried), "refused by the gate": sum(bool(each.refused) for each in tried),
                           "below the floors": sum(each.refused is None and not self.floors.passed(each)
                                                   for each in tried), "pairs": count})
        if not read_lines_of(file):
            notice(f"dpo: no two rewrites of a prompt are further apart than dpo.gap {config.dpo.gap:g} with the "
                   "better one passing reward.floors, so there are no pairs; the adapter is that of sft")
            return None
        return self.trained("dpo", str(start))

    def exported(self, stages: list[Path]) -> Path:
        folder = self.path / "export"
        joined_adapters([stage / "export" for stage in stages], self.config.model.source, folder)
        save_rewriting(SavedRewriting(rewrite=self.config.rewrite, gate=self.config.gate,
                                      trained_for=str(named_only(self.config.generator.model.source))), folder)
        return folder

    def measured(self, export: Path, first: Path | None) -> dict[str, Any]:
        """All numbers on held-out prompts, and the page. first: the run of SFT, where DPO has learnt more."""
        from visalign.reports.adapting import write_adapt_page

        doing("measuring on held-out prompts")
        config, prompts = self.config, self.plan.measured
        gate = self.laboratory.gate
        sources = {BASE: config.model.source, **({IMITATED: str(first)} if first else {}), OURS: str(export)}
        texts = {RAW: unchanged(prompts)} | {
            kind: rewriter_of(source, config.rewrite, gate, self.device).rewrite(prompts, f"{kind}, held out")
            for kind, source in sources.items()}
        store = self.held_out
        features = load_features(config.eval.features, self.device) if config.eval.features else None
        held = render_held_out(prompts, texts, store, config.eval, features)
        notice(f"held out: {fallbacks_in_words(texts[OURS])}")
        found = measures_of(held, gate) | {"renders": {"learning": self.laboratory.store.kept,
                                                       "held out": store.kept}}
        write_lines(self.path / "held_out" / "texts.jsonl", rows_of_held_out(held))
        write_adapt_page(self.path, named_only(config.model_dump(mode="json", exclude={"output"})), found,
                         written(self.path / STAGES), shown_rows(held, store, config))
        return found


def unchanged(prompts: Sequence[str]) -> list[Rewritten]:
    """The prompts as they are."""
    return [Rewritten(prompt, prompt, prompt, None) for prompt in prompts]


SHOWN_PROMPTS = 16


def shown_rows(held: HeldOutRenders, store: RenderStore, config: AdaptConfig) -> list[dict[str, Any]]:
    """Of the first held-out prompts, never a choice of good ones, each way's render of the first seed, and the best."""
    every, rows, best = held.seeds, [], held.best(RAW).tolist()
    wanted = {kind: wanted_of(texts, config.eval) for kind, texts in held.texts.items()}
    for i, prompt in enumerate(held.prompts[:SHOWN_PROMPTS]):
        cells = [(RAW, prompt, wanted[RAW][i * every], None),
                 (f"best of {every} seeds", prompt, wanted[RAW][i * every + best[i]], None),
                 *((kind, held.texts[kind][i].used, wanted[kind][i * every], held.texts[kind][i])
                   for kind in (BASE, OURS))]
        rows.append({"prompt": prompt, "cells": [
            {"kind": kind, "text": text, "media": store.media(each),
             "refused": own.refused if own else None, "written": own.written if own else None}
            for kind, text, each, own in cells]})
    return rows


@heard()
def adapt(config: AdaptConfig, resume: bool = False) -> tuple[Path, dict[str, Any]]:
    """All stages; returns the run's folder and its measures. Raises UserError for anything the user can fix."""
    started = time.time()
    plan = check_adapt(config)
    run = RunFolder(plan.config.output.folder, plan.config, resume)
    if (run.path / MEASURES).is_file():
        return run.path, written(run.path / MEASURES)
    here = AdaptRun(plan, run, str(pick_device(plan.config.device)))
    here.check_held_out()
    pools = here.evolved()
    first = here.imitated(pools)
    second = here.compared(pools, first)
    export = here.exported([first, *([second] if second else [])])
    found = here.measured(export, first if second else None) | {"seconds": time.time() - started}
    write_adapt_card(plan.config, found, export)
    write_atomically(run.path / MEASURES, (json.dumps(found, indent=1) + "\n").encode())
    return run.path, found


def write_adapt_card(config: AdaptConfig, found: dict[str, Any], folder: Path) -> None:
    """A card for model hubs; nothing in it names a place on the machine that trained it."""
    from visalign.reports.adapting import table_in_words

    source, generator = named_only(config.model.source), named_only(config.generator.model.source)
    table = "\n".join(table_in_words(found))
    write_atomically(folder / "README.md", f"""---
library_name: peft
pipeline_tag: text-generation
base_model: {json.dumps(source)}
tags: ["visalign", "prompt-rewriting"]
---
# {source} writes prompts for {generator}

`visalign generate {generator} "a prompt" --rewrite FOLDER`

```
{table}
```
""".encode())


def describe_adapt(config: AdaptConfig) -> str:
    """What a run would do, in words, without loading a model. Raises UserError for whatever a run would refuse."""
    from visalign.storage.yaml_files import dump_yaml

    plan = check_adapt(config)
    config, evolving = plan.config, plan.config.evolve
    tried = evolving.rounds * evolving.per_round * (evolving.rules + evolving.llm) + 1
    learning = len(plan.prompts) * config.generator.seeds * (tried + config.dpo.candidates)
    held = 3 * len(plan.measured) * config.eval.samples_per_prompt
    lines = [f"model             {locate_language_model(config.model.source).described}",
             f"generator         {config.generator.model.source}, {config.generator.steps} steps",
             f"prompts           {len(plan.prompts)} to learn from, {len(plan.measured)} held out",
             f"renders           at most {learning} while learning and {held} to measure"]
    return "\n".join([*lines, "", dump_yaml(config.model_dump(mode="json"))])


