"""What a reward server and its client say to each other: samples as JSON one way, scores the other.

Images travel as PNG and videos as their frames, so that nothing is lost; numbers are null where there is no score.
"""

import base64
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from visalign.errors import UserError, nearest
from visalign.media.answers import Answer
from visalign.media.samples import Media, Sample, Video
from visalign.media.source_images import EDIT_NOTES, read_source
from visalign.rewards.base import Reward, Scores
from visalign.rewards.web.replies import Unreadable, parsed, plain_text, without_key, words_of_page

PROTOCOL = 1
SCORE_PATH, HEALTH_PATH = "/v1/score", "/v1/health"
MASK = "mask"
WRITTEN_NOTES = tuple(name for name in EDIT_NOTES if name != MASK)
"""What is said of an edit in words; its mask is an image."""
LONGEST_REMARK = 500


@dataclass(frozen=True)
class ServedReward:
    """A reward as its server describes it. version: changes whenever its scores may."""

    name: str
    version: str
    modalities: frozenset[str]
    dimensions: tuple[str, ...]
    higher_is_better: bool
    needs_prompt: bool
    needs_sources: bool
    needs_group: bool
    score_range: tuple[float, float]

    @classmethod
    def of(cls, reward: Reward, version: str) -> "ServedReward":
        return cls(reward.name, version, reward.modalities, reward.dimensions, reward.higher_is_better,
                   reward.needs_prompt, getattr(reward, "needs_sources", False), reward.needs_group, reward.score_range)

    def narrowed(self, dimension: str) -> "ServedReward":
        return replace(self, dimensions=(dimension,))

    def told(self) -> dict[str, Any]:
        """As JSON; an end of the range that is infinite is null."""
        ends = [end if math.isfinite(end) else None for end in self.score_range]
        return vars(self) | {"modalities": sorted(self.modalities), "dimensions": list(self.dimensions),
                             "score_range": ends}

    @classmethod
    def read(cls, told: dict[str, Any]) -> "ServedReward":
        """Raises LookupError, TypeError or ValueError for what is not such a description."""
        low, high = told["score_range"]
        dimensions = tuple(str(each) for each in told["dimensions"])
        modalities = frozenset(told["modalities"])
        if not dimensions or not modalities <= {"image", "video", "text"}:
            raise ValueError
        flags = [bool(told[name]) for name in ("higher_is_better", "needs_prompt", "needs_sources", "needs_group")]
        return cls(str(told["name"]), str(told["version"]), modalities, dimensions, *flags,
                   (float("-inf") if low is None else float(low), float("inf") if high is None else float(high)))


def read_health(status: int, body: bytes, url: str) -> list[ServedReward]:
    """The rewards of a server, from its answer. Raises UserError for another kind of server, or another protocol."""
    try:
        told = json.loads(body)
        protocol, rewards = told["protocol"], told["rewards"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = plain_text(body[:2000].decode("utf-8", "replace"))[:80]
        raise UserError(f"{url} answers {HEALTH_PATH} with status {status} and {said!r}, as no reward server of "
                        "visalign does; set url to one that `visalign reward serve` started") from None
    if protocol != PROTOCOL:
        raise UserError(f"{url} speaks protocol {str(protocol)[:20]} of reward servers, this visalign speaks "
                        f"{PROTOCOL}; use one version of visalign on both sides")
    try:
        return [ServedReward.read(each) for each in rewards]
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"{url} describes its rewards in a way that this visalign does not read; use one version of "
                        "visalign on both sides") from None


def served_reward(rewards: list[ServedReward], name: str | None, url: str) -> ServedReward:
    """The one that is named, or the only one. Raises UserError where it is not among them."""
    names = [each.name for each in rewards]
    if name is None and len(rewards) == 1:
        return rewards[0]
    if name is None:
        raise UserError(f"{url} serves {', '.join(names) or 'nothing'}; set reward to one of them")
    if name not in names:
        raise UserError(f"{url} serves no reward {name}{nearest(name, names)}")
    return rewards[names.index(name)]


def png_text(image: Image.Image) -> str:
    """The image as PNG in base64, packed quickly rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def packed_media(media: Media) -> dict[str, Any]:
    if isinstance(media, Video):
        return {"video": {"frames": [png_text(frame) for frame in media.frames], "fps": media.fps}}
    if isinstance(media, Answer):
        return {"answer": encodable(media)}
    return {"image": png_text(media)}


def packed_sample(sample: Sample, with_sources: bool, group: str | None) -> dict[str, Any]:
    """A sample as JSON. Raises UserError for a mask that cannot be read."""
    packed = {"prompt": encodable(sample.prompt)} | packed_media(sample.media)
    if with_sources:
        notes = {name: encodable(str(sample.known[name])) for name in WRITTEN_NOTES if name in sample.known}
        packed |= {"sources": [png_text(source) for source in sample.sources], "notes": notes}
        if MASK in sample.known:
            packed[MASK] = png_text(read_source(Path(sample.known[MASK]), "mask"))
    more = {"seed": sample.seed, "group": None if group is None else encodable(group)}
    return packed | {name: value for name, value in more.items() if value is not None}


def packed_request(samples: list[Sample], groups: list[str | None], reward: ServedReward) -> bytes:
    """The body of one request for one reward's scores. Raises UserError as `packed_sample` does."""
    rows = [packed_sample(sample, reward.needs_sources, group) for sample, group in zip(samples, groups, strict=True)]
    return json.dumps({"protocol": PROTOCOL, "rewards": [reward.name], "samples": rows}).encode()


@dataclass(frozen=True)
class SampleScores:
    """What a server says of one sample by one reward: its values by dimension, None where there is none.

    spread: the reward's own standard deviations, where it gives them. remark: why values are missing, or a note.
    """

    values: tuple[float | None, ...]
    spread: tuple[float | None, ...] | None = None
    remark: str | None = None


def rows_of(answer: Scores) -> list[SampleScores]:
    """A reward's answer, sample by sample."""
    spreads = [None] * len(answer.values) if answer.spread is None else answer.spread.tolist()
    return [SampleScores(tuple(map(finite_or_none, values)), spread and tuple(map(finite_or_none, spread)),
                         answer.remarks.get(i))
            for i, (values, spread) in enumerate(zip(answer.values.tolist(), spreads, strict=True))]


def told_scores(by_sample: list[dict[str, SampleScores]], rewards: list[ServedReward]) -> dict[str, Any]:
    """A whole answer as JSON, from each sample's scores by reward."""
    def named(part: str) -> list[dict]:
        return [{each.name: dict(zip(each.dimensions, found, strict=True)) for each in rewards
                 if (found := getattr(row[each.name], part)) is not None} for row in by_sample]

    remarks = [{name: each.remark for name, each in row.items() if each.remark} for row in by_sample]
    spreads = named("spread")
    return {"protocol": PROTOCOL, "versions": {each.name: each.version for each in rewards}, "scores": named("values"),
            "remarks": remarks} | ({"spreads": spreads} if any(spreads) else {})


def read_scores(body: bytes, reward: ServedReward, count: int, key: str | None) -> Scores:
    """One reward's scores of `count` samples. Raises Unreadable for anything else, and OtherVersion."""
    wanted = "list of scores"
    told = parsed(body, key, wanted)
    try:
        version, spreads = str(told["versions"][reward.name]), told.get("spreads")
        if len(told["scores"]) != count or len(told["remarks"]) != count or len(spreads or told["scores"]) != count:
            raise Unreadable(f"it answered for {len(told['scores'])} of {count} samples")
        values = _table(told["scores"], reward)
        spread = _table(spreads, reward) if spreads else None
        remarks = {i: plain_text(without_key(str(row[reward.name]), key))[:LONGEST_REMARK]
                   for i, row in enumerate(told["remarks"]) if reward.name in row}
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Unreadable(f"the body is no {wanted} of {reward.name}: {words_of_page(body, key)[:80]!r}") from None
    if version != reward.version:
        raise OtherVersion(f"the server's {reward.name} is another one now (version {version[:20]}, it was "
                           f"{reward.version}); its scores cannot be compared with those before")
    for i in values.isnan().any(1).nonzero().flatten().tolist():
        remarks.setdefault(i, "the server gave no score and no reason")
    return Scores(values, remarks, spread)


class OtherVersion(Exception):
    """The server serves another reward than it did."""


def _table(rows: list[dict], reward: ServedReward) -> Tensor:
    """[n, D], null as NaN. Raises LookupError, TypeError or ValueError where a number is missing or is none."""
    found = [[(row.get(reward.name) or dict.fromkeys(reward.dimensions))[each] for each in reward.dimensions]
             for row in rows]
    for value in (value for row in found for value in row):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)
                                  or not math.isfinite(value)):
            raise ValueError
    return torch.tensor([[math.nan if value is None else float(value) for value in row] for row in found],
                        dtype=torch.float32).view(len(rows), len(reward.dimensions))


def encodable(text: str) -> str:
    """Without halves of characters, which JSON may spell and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
