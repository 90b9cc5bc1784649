"""The trials of prove_offline.py: what each learns from, what it should change, what it is compared with."""

from dataclasses import dataclass, field
from pathlib import Path

from visalign.config import OfflineConfig
from visalign.config.load import build_objective, parse_config
from visalign.objectives.base import SamplePasses
from visalign.storage.yaml_files import read_mapping

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

BATCH = 16
BUDGET = 40 * BATCH * 2 * 4
"""Passes of the network for training, one with gradients counted as three: 40 steps of DPO."""
RULE = "colourfulness"
ALSO = ("tiny-group", "tiny-clip")
GUIDED = 3.0
"""The scale at which tiny-sd3 is sampled with guidance."""


@dataclass(frozen=True)
class Trial:
    """One method on one embedded model.

    model, data: what learns, from which set of `prove_offline.pairs_of`. target: the figure that should change, and
    `sign` which way. control: the trial without the idea. changes: of other sections. steps_as: the trial whose steps
    it takes, where both are to be compared at equal steps. recipe: of configs/, which is run as a user runs it, with
    `changes` and for its own number of steps.
    """

    model: str
    data: str
    objective: dict
    control: str | None = None
    target: str = RULE
    sign: int = 1
    changes: dict = field(default_factory=dict)
    steps_as: str | None = None
    title: str = ""
    recipe: str | None = None


DPO = {"beta": 200}
SELVES = {"data": {"own": {"every": 5, "keep": 7, "steps": 8}}}
SHORT = {"train": {"steps": 80}, "eval": {"every": 16}}
HOME = {"timestep_sampling": "logit_normal"}
TRIALS = {
    "flow_dpo": Trial("tiny-sd3", "own", {"name": "flow_dpo"} | DPO, "flow_dpo on coins", title="Flow-DPO"),
    "flow_dpo on coins": Trial("tiny-sd3", "coins", {"name": "flow_dpo"} | DPO),
    "flow_rwr": Trial("tiny-sd3", "own", {"name": "flow_rwr"}, "flow_rwr of equal rewards", title="Flow-RWR"),
    "flow_rwr of equal rewards": Trial("tiny-sd3", "own", {"name": "flow_rwr", "tau": 1e4}),
    "sft": Trial("tiny-sd3", "own", {"name": "sft"}, "flow_rwr of equal rewards", title="SFT on the chosen"),
    "mapo": Trial("tiny-sd3", "own", {"name": "mapo"}, "mapo without preference", title="MaPO"),
    "mapo without preference": Trial("tiny-sd3", "own", {"name": "mapo", "beta": 0.0}),
    "kto": Trial("tiny-sd3", "own", {"name": "diffusion_kto", "beta": 200}, "kto on coins", title="Diffusion-KTO"),
    "kto on coins": Trial("tiny-sd3", "coins", {"name": "diffusion_kto", "beta": 200}),
    "flow_inpo": Trial("tiny-sd3", "own", {"name": "flow_inpo", "inversion_noise": 0.0} | DPO,
                       "flow_dpo in as few steps", target="accuracy", title="DDIM-InPO, flow form"),
    "flow_dpo in as few steps": Trial("tiny-sd3", "own", {"name": "flow_dpo"} | DPO, target="accuracy",
                                      steps_as="flow_inpo"),
    "seppo": Trial("tiny-sd3", "own", {"name": "seppo"} | DPO, "seppo without its criterion", changes=SELVES,
                   title="SePPO"),
    "seppo without its criterion": Trial("tiny-sd3", "own", {"name": "seppo", "flip": "none"} | DPO, changes=SELVES),
    "capo": Trial("tiny-sd3", "pareto", {"name": "flow_dpo", "link": "calibrated"} | DPO, "ipo of one reward",
                  "tiny-clip", title=f"CaPO, {RULE} and tiny-clip"),
    "ipo of one reward": Trial("tiny-sd3", "own", {"name": "flow_dpo", "link": "ipo", "ipo_tau": 0.5} | DPO,
                               target="tiny-clip"),
    "soar": Trial("tiny-sd3", "drawings", {"name": "soar", "guidance_scale": GUIDED}, "sft on drawings", "way home",
                  -1, {"train": HOME}, title="SOAR"),
    "sft on drawings": Trial("tiny-sd3", "drawings", {"name": "sft"}, target="way home", sign=-1,
                             changes={"train": HOME}),
    "diffusion_dpo": Trial("tiny-sdxl", "own", {"name": "diffusion_dpo"} | DPO, "diffusion_dpo on coins",
                           title="Diffusion-DPO"),
    "diffusion_dpo on coins": Trial("tiny-sdxl", "coins", {"name": "diffusion_dpo"} | DPO),
    "sft of tiny-sdxl": Trial("tiny-sdxl", "own", {"name": "sft"}, title="SFT on the chosen"),
    "inpo": Trial("tiny-sdxl", "own", {"name": "inpo"} | DPO, "diffusion_dpo in as few steps", "accuracy",
                  title="DDIM-InPO"),
    "diffusion_dpo in as few steps": Trial("tiny-sdxl", "own", {"name": "diffusion_dpo"} | DPO, target="accuracy",
                                           steps_as="inpo"),
    "npo": Trial("tiny-sdxl", "own", {"name": "diffusion_dpo"} | DPO, "npo on coins", f"{RULE} led away",
                 changes={"data": {"swap": True}}, title="Diffusion-NPO"),
    "npo on coins": Trial("tiny-sdxl", "coins", {"name": "diffusion_dpo"} | DPO, target=f"{RULE} led away",
                          changes={"data": {"swap": True}}),
    "ppd": Trial("tiny-sd3", "tastes", {}, "ppd of shuffled users", "told apart", title="PPD", recipe="tiny_ppd"),
    "ppd of shuffled users": Trial("tiny-sd3", "shuffled", {}, target="told apart", recipe="tiny_ppd"),
    "rpo": Trial("tiny-sd3", "subject", {}, "rpo without imitation", "similarity", title="RPO", recipe="tiny_subject",
                 changes=SHORT),
    "rpo without imitation": Trial("tiny-sd3", "subject", {}, target="similarity", recipe="tiny_subject",
                                   changes=SHORT | {"objective": {"sft_weight": 0.0}}),
}
"""Each method, then what is compared with it."""


def cost(passes: SamplePasses) -> int:
    """Of a sample in a step, in passes without gradients."""
    return 3 * passes.with_gradient + passes.without


def recipe_of(trial: Trial, path: str, seed: int, folder: str, cache: str) -> dict:
    """The raw settings of a trial that is a shipped recipe."""
    raw = read_mapping(CONFIGS / f"{trial.recipe}.yaml", "recipe")
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0}
    raw["train"] |= {"seed": seed, "device": "cpu"}
    raw["data"] |= {"cache": cache} | ({} if trial.data == "subject" else {"path": path})
    for section, values in trial.changes.items():
        raw[section] = raw[section] | values
    return raw


def settings_of(trial: Trial, path: str, seed: int, folder: str, cache: str) -> OfflineConfig:
    """The run of a trial on the set at `path`."""
    if trial.recipe:
        return parse_config(recipe_of(trial, path, seed, folder, cache))
    objective = build_objective(trial.objective)
    as_long = build_objective(TRIALS[trial.steps_as].objective) if trial.steps_as else objective
    own = trial.changes.get("data", {}).get("own", {}).get("steps", 0)
    steps = max(1, round(BUDGET / (BATCH * (len(objective.sides) * cost(as_long.passes) + own))))
    raw = {"model": {"source": trial.model, "tuning": "lora", "lora": {"rank": 16, "alpha": 32}, "attention": "native"},
           "data": {"path": path, "holdout": 0.2, "cache": cache}, "objective": trial.objective,
           "optim": {"lr": 5e-4, "schedule": "cosine", "warmup_steps": 5},
           "train": {"steps": steps, "batch_size": BATCH, "seed": seed, "device": "cpu"},
           "output": {"folder": folder, "trackers": [], "checkpoint_every": 0}}
    if trial.model == "tiny-sd3":
        raw["model"]["prompt_tokens"] = 16
    for section, values in trial.changes.items():
        raw[section] = raw[section] | values
    return parse_config(raw)
