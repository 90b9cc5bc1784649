"""The trials of prove_trade.py: recipes, what is changed in them, what they are compared with; and planted worlds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visalign.config import OnlineConfig
from visalign.config.load import build_objective, parse_config
from visalign.media import pixels as measures
from visalign.rewards.registry import REWARDS
from visalign.rewards.rules import SmoothRule
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.cost import passes_of_step

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "online"
BUDGET = 12_000.0
"""Passes of one sample through the network for a run, one with gradients counted as three, an image that is decoded and
scored as four."""
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
WORLDS: dict[str, Any] = {"fit": "tiny-reward", "bright": "planted_brightness", "two modes": "planted_modes"}
"""What is optimised: fit to the prompt; a rule that is best for white; one that two colours satisfy equally."""
SHORT_NAMES = {"fit": "tiny-reward", "bright": "brightness", "two modes": "red or blue"}


@dataclass(frozen=True)
class Trial:
    """A recipe of configs/online and its changes. control: the trial without the idea. title: how the table calls it,
    "" for one that only others are compared with. learnt_as: the trial whose learning rate it takes, so that a control
    differs in the idea alone."""

    recipe: str
    title: str = ""
    control: str | None = None
    changes: dict = field(default_factory=dict)
    learnt_as: str | None = None


def without(recipe: str, method: str, **changes: dict) -> Trial:
    """A control: a recipe with changes, at the learning rate that was chosen for the method."""
    return Trial(recipe, changes=changes, learnt_as=method)


TRIALS = {
    "flow_grpo": Trial("flow_grpo", "Flow-GRPO"),
    "mix_grpo": Trial("mix_grpo", "MixGRPO"),
    "nft": Trial("nft", "DiffusionNFT"),
    "awm": Trial("awm", "AWM"),
    "raft": Trial("raft", "RAFT"),
    "tempflow": Trial("tempflow", "TempFlow-GRPO's weights", "steps alike"),
    "steps alike": without("tempflow", "tempflow", objective={"step_weight": "none"}),
    "diverse": Trial("diverse", "DiverseGRPO", "neither rarity nor early KL"),
    "neither rarity nor early KL": without("diverse", "diverse", advantage={"rarity": 0.0},
                                           objective={"kl": "step_scaled", "kl_steps": 0, "beta": 0.01}),
    "pref_grpo": Trial("pref_grpo", "Pref-GRPO, win rates", "rewards as they are"),
    "rewards as they are": without("pref_grpo", "pref_grpo", advantage={"shape": "none"}),
    "mix_grpo_flash": Trial("mix_grpo_flash", "MixGRPO-Flash", "mix_grpo"),
}
"""Each method, then what is compared with it."""


def settings_of(trial: Trial, world: str, seed: int, folder: str, factor: float = 1.0) -> OnlineConfig:
    """The run of a trial in a world: its recipe's epochs are replaced by those that the budget pays."""
    raw = read_mapping(CONFIGS / f"{trial.recipe}.yaml", "recipe")
    raw["reward"] = {name: value for name, value in raw["reward"].items() if name == "features"} | {
        "models": WORLDS[world]}
    raw["output"] = {"folder": folder, "trackers": [], "checkpoint_every": 0, "keep_checkpoints": 1}
    raw["guard"] = {"action": "off"}
    raw["eval"] = {"every": 0}
    raw["optim"]["lr"] = float(raw["optim"]["lr"]) * factor
    raw["train"] |= {"seed": seed, "device": "cpu"}
    for section, values in trial.changes.items():
        raw[section] = raw.get(section, {}) | values
    config = parse_config(raw)
    epoch = passes_of_step(config, build_objective(config.objective, "objective", "online"))
    return parse_config(raw | {"train": raw["train"] | {"epochs": max(1, round(BUDGET / epoch))}})
