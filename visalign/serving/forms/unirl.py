"""UniRL's form (Tencent-Hunyuan/UniRL, unirl-reward-service and RemoteRewardBackend).

POST /score takes requests with a history of turns, each a text with `image_b64`, `video_b64` or `video_path`, and the
rewards wanted; it answers with numbers by reward and dimension, larger is better, and errors by reward. The last turn
is scored, images of turns before it are the sources of an edit. A `video_path` must be in a folder that the server was
allowed. GET /health and GET /rewards name the rewards.
"""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from visalign.errors import UserError
from visalign.rewards.web.wire import SampleScores, ServedReward
from visalign.serving.forms.flow_factory import larger_is_better
from visalign.serving.forms.own import encoded
from visalign.serving.intake import Given, Refusal, read_form
from visalign.serving.media import Reference, RequestMedia
from visalign.serving.service import RewardService


class Turn(BaseModel):
    """A text and its image or video."""

    text: str
    image_b64: str | None = None
    video_b64: str | None = None
    video_path: str | None = None


class TurnsForm(BaseModel):
    """A sample and the rewards wanted. metadata may name the sample's group as `group`; other keys are ignored."""

    history: list[Turn]
    required_rewards: list[str]
    metadata: dict[str, Any] | None = None

    def given(self, store: RequestMedia) -> Given:
        if not self.history:
            raise Refusal(422, "history: is empty; its last turn is what is scored")
        *before, last = self.history
        group = (self.metadata or {}).get("group")
        found = Given(last.text, group=None if group is None else str(group))
        try:
            if last.video_path is not None or last.video_b64 is not None:
                found.media = encoded(Reference(path=last.video_path, base64=last.video_b64), "video", store)
            elif last.image_b64 is not None:
                found.media = encoded(last.image_b64, "image", store)
            found.sources = [encoded(turn.image_b64, "image", store) for turn in before if turn.image_b64 is not None]
        except UserError as error:
            found.problem = str(error)
        return found


class RequestsForm(BaseModel):
    """A batch of requests."""

    requests: list[TurnsForm]


class UniRLForm:
    """POST /score, GET /rewards, GET /health."""

    name = "unirl"

    def __init__(self, service: RewardService):
        self.service = service
        self.routes = (("POST", "/score", self.score), ("GET", "/rewards", self.rewards),
                       ("GET", "/health", self.health))

    async def rewards(self, request: Request) -> JSONResponse:
        return JSONResponse({"rewards": list(self.service.panel.served)})

    async def health(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "rewards": {name: [True] for name in self.service.panel.served}})

    async def score(self, request: Request) -> JSONResponse:
        service = self.service
        async with service.intake.body(request) as body:
            form = await service.intake.work(read_form, RequestsForm, body)
            service.intake.check_count(len(form.requests))
            wanted = [service.panel.named(each.required_rewards) for each in form.requests]
            store = RequestMedia(service.settings.folders, service.settings.max_bytes)
            given = await service.intake.work(lambda: [each.given(store) for each in form.requests])
            every = tuple(name for name in service.panel.served if any(name in names for names in wanted))
            rows = await service.score(given, every)
        told = [self._told(row, names) for row, names in zip(rows, wanted, strict=True)]
        return JSONResponse({"results": [results for results, _ in told], "errors": [errors for _, errors in told]})

    def _told(self, row: dict[str, SampleScores], names: tuple[str, ...]) -> tuple[dict, dict]:
        """(numbers, errors) of one sample, by reward."""
        results, errors = {}, {}
        for name in names:
            found = numbers_of(self.service.panel.served[name], row[name])
            if found:
                results[name] = found
            else:
                errors[name] = row[name].remark or "the reward gave no score"
        return results, errors


def numbers_of(reward: ServedReward, said: SampleScores) -> dict[str, float]:
    """The numbers that there are, by dimension, larger is better."""
    return {each: larger_is_better(reward, value)
            for each, value in zip(reward.dimensions, said.values, strict=True) if value is not None}
