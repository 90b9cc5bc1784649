"""Rewards by name: what a recipe, `--rewards` or a Python call may name, and what that builds.

A specification is one of
    a name                      tiny-clip, ocr, sharpness
    a name and its source       clip:ViT-H-14/laion2b_s32b_b79k, pickscore:/models/pickscore, vlm:http://HOST:8000/v1
    a folder                    of a unified reward, of the run that trained one, or of an open_clip model
    a YAML file                 holding one specification
    a mapping                   {kind: clip, source: ..., and that kind's settings}; combinations take `of: [...]`
"""

import importlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visalign import REWARDS_ABOVE
from visalign.config import RewardSpec
from visalign.config.load import build_dataclass
from visalign.errors import UserError, nearest
from visalign.rewards import combine, rules, video_rules, vlm
from visalign.rewards.base import Reward
from visalign.rewards.bias import Debiased
from visalign.rewards.clip import ClipScore
from visalign.rewards.directional import Directional
from visalign.rewards.edits import BackgroundKept, ClipDirection, SourceChange
from visalign.rewards.emoji_edit import EmojiEdit
from visalign.rewards.emoji_group import EmojiGroup
from visalign.rewards.familiar import Familiar
from visalign.rewards.harmonic import Harmonic
from visalign.rewards.hub_clip import Aesthetic, HPSv2, PickScore
from visalign.rewards.imagereward import ImageReward
from visalign.rewards.joint import JointPairs, JointReward
from visalign.rewards.joint.reward import kind_of_folder
from visalign.rewards.ocr import OcrText
from visalign.rewards.prompt_weights import PromptWeighted
from visalign.rewards.qwen_heads import HPSv3, VideoReward
from visalign.rewards.reference_similarity import ReferenceSimilarity
from visalign.rewards.relative import Relative
from visalign.rewards.text import embedding
from visalign.rewards.text import rules as text_rules
from visalign.rewards.text.likelihood import DensityRatio, FollowUp
from visalign.rewards.text.points import Points
from visalign.rewards.text.polar import Polar
from visalign.rewards.text.refusal import RefusalJudge, RefusalRule
from visalign.rewards.text.sequence import SequenceReward
from visalign.rewards.transport import TransportQuality, TransportSemantic
from visalign.rewards.views import Views
from visalign.rewards.web.reward import HttpReward
from visalign.storage.open_clip_models import CLIP_ASSETS, EMBEDDED_CLIPS
from visalign.storage.yaml_files import read_yaml

REWARDS: dict[str, type] = {
    "clip": ClipScore,
    "pickscore": PickScore,
    "hpsv2": HPSv2,
    "hpsv3": HPSv3,
    "imagereward": ImageReward,
    "aesthetic": Aesthetic,
    "videoreward": VideoReward,
    "joint": JointReward,
    "joint_pairs": JointPairs,
    "http": HttpReward,
    "vlm": vlm.VlmJudge,
    "vlm_pairs": vlm.VlmComparison,
    "llm": vlm.LlmJudge,
    "llm_pairs": vlm.LlmComparison,
    "vlm_personal": vlm.PersonalJudge,
    "vlm_edit": vlm.VlmEdit,
    "vlm_edit_pairs": vlm.VlmEditComparison,
    "unifiedreward": vlm.UnifiedReward,
    "unifiedreward_pairs": vlm.UnifiedRewardPairs,
    "unifiedreward_flex": vlm.UnifiedRewardFlex,
    "clip_direction": ClipDirection,
    "reference_similarity": ReferenceSimilarity,
    "relative": Relative,
    "directional": Directional,
    "transport_quality": TransportQuality,
    "transport_semantic": TransportSemantic,
    "background_kept": BackgroundKept,
    "source_change": SourceChange,
    "ocr": OcrText,
    "jpeg": rules.JpegSize,
    "sharpness": rules.Sharpness,
    "exposure": rules.Exposure,
    "contrast": rules.Contrast,
    "saturation": rules.Saturation,
    "colourfulness": rules.Colourfulness,
    "colour": rules.ColourOfPrompt,
    "motion": video_rules.Motion,
    "flicker": video_rules.Flicker,
    "prompt_motion": video_rules.PromptMotion,
    "subject_consistency": video_rules.SubjectConsistency,
    "frames": video_rules.OnFrames,
    "views": Views,
    "emoji_group": EmojiGroup,
    "emoji_edit": EmojiEdit,
    "brevity": text_rules.Brevity,
    "avoids": text_rules.Avoids,
    "contains": text_rules.Contains,
    "json_valid": text_rules.JsonValid,
    "regex": text_rules.RegexRule,
    "repetition": text_rules.Repetition,
    "language": text_rules.StopwordLanguage,
    "refusal": RefusalRule,
    "refusal_judge": RefusalJudge,
    "sequence": SequenceReward,
    "density_ratio": DensityRatio,
    "follow_up": FollowUp,
    "points": Points,
    "polar": Polar,
    "relevance": embedding.Relevance,
    "weighted_sum": combine.WeightedSum,
    "log_sigmoid": combine.LogSigmoid,
    "par": combine.PAR,
    "ensemble": combine.Ensemble,
    "uncertainty_weight": combine.UncertaintyWeight,
    "gate": combine.GatedReward,
    "direction": combine.Direction,
    "harmonic": Harmonic,
    "familiar": Familiar,
    "debiased": Debiased,
    "prompt_weighted": PromptWeighted,
}
ALIASES: dict[str, dict[str, Any]] = {
    "tiny-clip": {"kind": "clip", "source": str(EMBEDDED_CLIPS["tiny-clip"])},
    "tiny-reward": {"kind": "joint", "source": str(CLIP_ASSETS / "tiny-reward")},
    "tiny-group": {"kind": "emoji_group"},
    "tiny-edit": {"kind": "emoji_edit"},
    "minilm": {"kind": "relevance", "source": embedding.EMBEDDED_ENCODER},
}
"""Short names for whole specifications, including the embedded rewards."""
DEEPEST = 12
"""How deep rewards may be nested; a file that names itself goes deeper."""


def build_reward(spec: RewardSpec, device: str = "cpu", depth: int = 0) -> Reward:
    """The reward a specification describes; nothing is loaded yet. depth: how many specifications it is nested in.

    Raises UserError naming the part that is wrong and what is allowed.
    """
    given = expand(spec, depth)
    kind = given.pop("kind")
    for key, value in given.items():
        for part in value.values() if isinstance(value, dict) else [value]:
            if isinstance(part, float) and not math.isfinite(part):
                raise UserError(f"reward {kind}: {key} is {value}; a finite number is expected")
    inner = given.pop("of", None)
    if inner is not None:
        specs = inner if isinstance(inner, list) else [inner]
        if not specs:
            raise UserError(f"reward {kind}: `of` is empty; name at least one reward")
        given["of"] = [build_reward(each, device, depth + 1) for each in specs]
    if tools := given.get("tools"):
        specs = tools if isinstance(tools, list) else [tools]
        given["tools"] = [build_reward(each, device, depth + 1) for each in specs]
    if given.get("prompts_by") is not None:
        given["prompts_by"] = build_reward(given["prompts_by"], device, depth + 1)
    built = class_of(kind, given)
    allowed = built.__dataclass_fields__
    if "device" in allowed:
        given.setdefault("device", str(device))
    given.setdefault("name", kind)
    return build_dataclass(built, given, f"reward {kind}: unknown key {{key}}", f"reward {kind}")


def class_of(kind: str, given: Mapping[str, Any]) -> type:
    """The class of a kind: of two that have one name, the one which takes these settings."""
    above = _class_above(kind)
    return above if above is not None and above.takes(given) else REWARDS[kind]


def _class_above(kind: str) -> Any:
    """Rewards that work with whole generators stand in rooms above this one, which only their names reach."""
    if kind not in REWARDS_ABOVE:
        return None
    module, _, name = REWARDS_ABOVE[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def load_reward(spec: RewardSpec | Reward, device: str = "cpu") -> Reward:
    """As `build_reward`, after checking that everything it needs is there; a reward is returned as it is."""
    reward = spec if hasattr(spec, "score") else build_reward(spec, device)
    reward.check()
    return reward


def load_rewards(specs: list, device: str = "cpu") -> list[Reward]:
    """Rewards that take images and videos alike: an image reward of a video is the mean over its frames. Those of
    texts stay as they are.

    Raises UserError for a wrong specification or two rewards of one name.
    """
    rewards: list[Reward] = []
    for spec in specs:
        reward = load_reward(spec, device)
        on_frames = not reward.needs_group and reward.modalities == {"image"}
        rewards.append(video_rules.for_modality(reward, "video") if on_frames else reward)
    twice = [name for name, n in Counter(each.name for each in rewards).items() if n > 1]
    if twice:
        raise UserError(f"rewards: two are named {twice[0]}; give them names with {{kind: ..., name: ...}} in YAML")
    return rewards


def check_reward(spec: RewardSpec | Reward) -> None:
    """Raise UserError when the specification is wrong or something it needs is missing."""
    load_reward(spec)


def expand(spec: RewardSpec, depth: int = 0) -> dict[str, Any]:
    """A specification as a mapping with `kind`. Raises UserError as `build_reward` does."""
    if depth > DEEPEST:
        raise UserError(f"reward {spec}: is nested in more than {DEEPEST} others; does a file name itself?")
    if isinstance(spec, dict):
        odd = next((key for key in spec if not isinstance(key, str)), None)
        if odd is not None:
            raise UserError(f"reward: the key {odd!r} is not text; settings have names such as kind and source")
        kind = spec.get("kind") if isinstance(spec.get("kind"), str) else repr(spec.get("kind"))
        if kind in ALIASES:
            return ALIASES[kind] | {"name": kind} | {k: v for k, v in spec.items() if k != "kind"}
        if kind not in REWARDS:
            raise UserError(f"reward: kind is {spec.get('kind')!r}, which is not a reward"
                            f"{nearest(kind, [*REWARDS, *ALIASES])}")
        return dict(spec)
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"reward: expected a name, a folder, a YAML file or a mapping, got {spec!r}")
    spec = spec.strip()
    if spec in ALIASES:
        return {"name": spec} | ALIASES[spec]
    name, colon, source = spec.partition(":")
    if name in REWARDS:
        key = getattr(REWARDS[name], "named_by", "source")
        if colon and not source.strip():
            raise UserError(f"reward {spec}: after the colon comes its {key}"
                            + (", a folder or a hub id" if key == "source" else ""))
        address = source.startswith(("http://", "https://")) and "url" in REWARDS[name].__dataclass_fields__
        return {"kind": name} | ({"url" if address else key: source} if colon else {})
    path = Path(spec).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path, depth + 1)
    raise UserError(f"reward {spec}: neither a known reward, nor a folder, nor a YAML file"
                    f"{nearest(name, [*REWARDS, *ALIASES])}")


CARD = "card"
"""Where a trained reward's card lies in its folder."""


def reward_folder(spec: RewardSpec) -> Path | None:
    """The folder of a reward that was trained with this package, where its card may lie; None of any other, and of the
    embedded ones. Raises UserError as `build_reward` does."""
    source = str(expand(spec).get("source") or "")
    folder = Path(source).expanduser()
    return folder if (folder / "reward.json").is_file() and CLIP_ASSETS not in folder.parents else None


def _from_folder(folder: Path) -> dict[str, Any]:
    for inner in (folder / "reward", folder):  # a run of `visalign reward train`, or what it trained
        if (inner / "reward.json").is_file():
            return {"kind": kind_of_folder(inner), "source": str(inner), "name": folder.name}
    if (folder / "open_clip_config.json").is_file():
        return {"kind": "clip", "source": str(folder), "name": folder.name}
    raise UserError(f"reward {folder}: the folder holds neither reward.json (a unified reward) nor "
                    "open_clip_config.json (an open_clip model); other rewards are named KIND:FOLDER")


def _from_yaml(path: Path, depth: int) -> dict[str, Any]:
    spec = read_yaml(path, "reward")
    if not isinstance(spec, str | dict):
        raise UserError(f"reward {path}: expected a reward's name or a mapping with `kind`")
    expanded = expand(spec, depth)
    return {"name": path.stem} | expanded


def describe_rewards() -> list[tuple[str, str, str]]:
    """(name, modalities and needs, one line) of every reward, for `visalign list rewards`."""
    rows = []
    for name, kind in REWARDS.items():
        kinds = [each for each in (kind, _class_above(name)) if each is not None]
        what = ", ".join(sorted(frozenset().union(*(each.modalities for each in kinds)))) + (
            " + prompt" if kind.needs_prompt else "") + (" + source" if kind.needs_sources else "")
        if "of" in kind.__dataclass_fields__:
            what = "wraps rewards"
        rows.append((name, what, " ".join(" ".join(each.__doc__.split("\n\n")[0].split()) for each in kinds)))
    for name, spec in ALIASES.items():
        about = "by a package of its own" if name == "minilm" else "shipped with visalign; knows emoji drawings only"
        rows.append((name, "embedded", f"{spec['kind']}, {about}"))
    return rows
