"""The trials of prove_trade.py: recipes, what is changed in them, what they are compared with; and planted worlds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visalign.config import OnlineConfig
from visalign.config.load import build_objective, parse_config
from visalign.media import pixels as measures
from visalign.objectives.advantages import Advantages
from visalign.rewards.registry import REWARDS
from visalign.rewards.rules import SmoothRule
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.cost import passes_of_step

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "online"
BUDGET, PLANTED_BUDGET = 12_000.0, 4_000.0
"""Passes of one sample through the network for a run, one with gradients counted as three, an image that is decoded and
scored as four. Planted rewards get fewer: with more, half of the methods reach the one image that is best."""
FACTORS = (1 / 3, 1.0, 3.0)
"""Of a recipe's learning rate, that are tried on the tuning prompts."""


@dataclass
class Brightness(SmoothRule):
    """Mean luma, in [0, 1]: nothing but white is best, so that a policy that obeys collapses and saturates."""

    score_range = (0.0, 1.0)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        return measures.luma(pixels).flatten(1).mean(1)


def reds_and_blues(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """By how much red and blue stand out from the other channels, [B] each, from pixels [B, 3, H, W] in [0, 1]."""
    red, green, blue = pixels.unbind(1)
    return ((red - green.maximum(blue)).clamp(min=0).flatten(1).mean(1),
            (blue - green.maximum(red)).clamp(min=0).flatten(1).mean(1))


@dataclass
class RedOrBlue(SmoothRule):
    """How much an image is red or how much it is blue, whichever is more: two modes of equal worth."""

    score_range = (0.0, 1.0)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        red, blue = reds_and_blues(pixels)
        return red.maximum(blue)


REWARDS |= {"planted_brightness": Brightness, "planted_modes": RedOrBlue}
YELLOW = {"kind": "relative", "of": "tiny-clip", "good": "yellow", "bad": "blue", "k": 0.1}
MEASURED: dict[str, Any] = {
    "fit": "tiny-reward", "bright": "planted_brightness", "two modes": "planted_modes", "tiny-clip": "tiny-clip",
    "colourfulness": "colourfulness", "small file": "jpeg", "yellow": YELLOW}
"""Rewards that every run is measured with."""


@dataclass(frozen=True)
class World:
    """What is optimised. title: how the table calls it. scored_by: the names in MEASURED of which the one that gained
    least is the gain. beside: a reward there that nobody optimises. own: trials keep the rewards of their recipes,
    instead of the one that they are scored by. budget: passes of a run."""

    title: str
    scored_by: tuple[str, ...]
    beside: str = "tiny-clip"
    own: bool = False
    budget: float = BUDGET


WORLDS = {
    "fit": World("tiny-reward", ("fit",)),
    "bright": World("brightness", ("bright",), budget=PLANTED_BUDGET),
    "two modes": World("red or blue", ("two modes",), budget=PLANTED_BUDGET),
    "three": World("tiny-reward, colourfulness and small files, the least of them",
                   ("fit", "colourfulness", "small file"), own=True),
    "two groups": World("colourfulness and small files, the least of them", ("colourfulness", "small file"), own=True),
    "held": World("tiny-reward, with colourfulness held", ("fit",), own=True),
    "layout": World("tiny-reward's parts", ("fit",), own=True),
    "yellow": World("yellow", ("yellow",), beside="fit", own=True),
    "clip": World("tiny-clip", ("tiny-clip",), beside="fit", own=True),
}
"""Three that most trials live in: fit to the prompt; a rule that is best for white; one that two colours satisfy
equally. And those of trials whose idea is in their rewards."""
PLANTED = ("fit", "bright", "two modes")


@dataclass(frozen=True)
class Trial:
    """A recipe of configs/online and its changes. control: the trial without the idea. title: how the table calls it,
    "" for one that only others are compared with. learnt_as: the trial whose learning rate it takes, so that a control
    differs in the idea alone. worlds: where it runs; its learning rate is chosen in the first. strangers: samples get
    the advantages of the next prompt's."""

    recipe: str
    title: str = ""
    control: str | None = None
    changes: dict = field(default_factory=dict)
    learnt_as: str | None = None
    worlds: tuple[str, ...] = PLANTED
    strangers: bool = False


def without(method: str, recipe: str = "", strangers: bool = False, **changes: dict) -> Trial:
    """The control of a method: its recipe, or another, with changes, at the learning rate that was chosen for it."""
    of = METHODS[method]
    return Trial(recipe or of.recipe, changes=changes, learnt_as=method, worlds=of.worlds, strangers=strangers)


METHODS = {
    "flow_grpo": Trial("flow_grpo", "Flow-GRPO"),
    "mix_grpo": Trial("mix_grpo", "MixGRPO"),
    "nft": Trial("nft", "DiffusionNFT"),
    "awm": Trial("awm", "AWM"),
    "raft": Trial("raft", "RAFT"),
    "tempflow": Trial("tempflow", "TempFlow-GRPO's weights", "steps alike"),
    "diverse": Trial("diverse", "DiverseGRPO", "neither rarity nor early KL"),
    "pref_grpo": Trial("pref_grpo", "Pref-GRPO, win rates", "rewards as they are"),
    "mix_grpo_flash": Trial("mix_grpo_flash", "MixGRPO-Flash", "mix_grpo"),
    "dgpo": Trial("dgpo", "DGPO", "DGPO, advantages of strangers"),
    "crd": Trial("crd", "CRD", "CRD, advantages of strangers"),
    "branch_grpo": Trial("branch_grpo", "BranchGRPO", "no branches"),
    "euphonium": Trial("euphonium", "Euphonium", "no guide", worlds=("fit",)),
    "spo": Trial("spo", "SPO", "flow_grpo", worlds=("fit",)),
    "marble": Trial("marble", "MARBLE", "equal weights", worlds=("three",)),
    "worst_group": Trial("worst_group", "MaxMin-RLHF", "groups alike", worlds=("two groups",)),
    "constrained": Trial("constrained", "Constrained RLHF", "sum of rewards", worlds=("held",)),
    "hi_grpo": Trial("hi_grpo", "Rewards by noise level", "rewards at every level", worlds=("layout",)),
    "direct_align": Trial("direct_align", "Direct-Align", "draft", worlds=("yellow",)),
    "draft": Trial("draft", "DRaFT-1", changes={"reward": {"models": YELLOW}}, worlds=("yellow",)),
    "d2align": Trial("d2align", "D2-Align", "tiny-clip as it is", worlds=("clip",)),
}
"""By name, each with its own learning rate. spo, euphonium and d2align need the files that the headers of their recipes
say how to make."""
TRIALS = METHODS | {
    "steps alike": without("tempflow", objective={"step_weight": "none"}),
    "neither rarity nor early KL": without("diverse", advantage={"rarity": 0.0},
                                           objective={"kl": "step_scaled", "kl_steps": 0, "beta": 0.01}),
    "rewards as they are": without("pref_grpo", advantage={"shape": "none"}),
    "DGPO, advantages of strangers": without("dgpo", strangers=True),
    "CRD, advantages of strangers": without("crd", strangers=True),
    "no branches": without("branch_grpo", rollout={"branches": None}),
    "no guide": without("euphonium", rollout={"guide": None}, advantage={"process_weight": 0.0}),
    "equal weights": without("marble", advantage={"combine": "advantages", "every": None, "decay": None}),
    "groups alike": without("worst_group", advantage={"combine": "advantages", "rate": None}),
    "sum of rewards": without("constrained", advantage={"combine": "rewards", "thresholds": None, "squash": None,
                                                        "rate": None}),
    "rewards at every level": without("hi_grpo", advantage={"schedule": None}),
    "tiny-clip as it is": without("d2align", reward={"models": "tiny-clip"}),
}
"""Each method and what is compared with it."""


def by_strangers(advantages: Callable, group_size: int) -> Callable:
    """Of a trainer: the same, with each sample's advantage that of its namesake in the next prompt's group."""
    def turned(*args) -> Advantages:
        found = advantages(*args)
        return found._replace(advantages=found.advantages.roll(-group_size),
                              trained=found.trained.roll(-group_size))

    return turned


def changed(raw: dict, trial: Trial) -> dict[str, dict]:
    """The sections of a recipe that the trial changes; what is set to None is left out."""
    return {section: {name: value for name, value in (raw.get(section, {}) | values).items() if value is not None}
            for section, values in trial.changes.items()}


def missing(trial: Trial) -> str:
    """A file that the trial needs and that is not there; "" where there is none."""
    raw = read_mapping(CONFIGS / f"{trial.recipe}.yaml", "recipe")
    raw |= changed(raw, trial)
    models = raw["reward"]["models"]
    needed = [models.get("correction") if isinstance(models, dict) else None,
              (raw["rollout"].get("guide") or {}).get("source")]
    return next((path for path in needed if path and not Path(path).exists()), "")


def settings_of(trial: Trial, world: str, seed: int, folder: str, factor: float = 1.0) -> OnlineConfig:
    """The run of a trial in a world: its recipe's epochs are replaced by those that the budget pays."""
    raw = read_mapping(CONFIGS / f"{trial.recipe}.yaml", "recipe")
    if not WORLDS[world].own:
        raw["reward"] = {name: value for name, value in raw["reward"].items() if name == "features"} | {
            "models": MEASURED[WORLDS[world].scored_by[0]]}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1}
    raw["guard"] = {"action": "off"}
    raw["eval"] = {"every": 0}
    raw["optim"]["lr"] = float(raw["optim"]["lr"]) * factor
    raw["train"] |= {"seed": seed, "device": "cpu"}
    raw |= changed(raw, trial)
    config = parse_config(raw)
    epoch = passes_of_step(config, build_objective(config.objective, "objective", "online"))
    return parse_config(raw | {"train": raw["train"] | {"epochs": max(1, round(WORLDS[world].budget / epoch))}})
