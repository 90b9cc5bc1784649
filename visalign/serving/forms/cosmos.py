"""cosmos-rl's form (nvidia-cosmos/cosmos-rl, reward_service and RemoteRewardCalculator).

POST /api/reward/enqueue takes a line of JSON (prompts, reward_fn, media_type) and after it a .npy array: uint8 images
[B, H, W, 3], or videos [B, 3, T, H, W]; it answers with a uuid, for which POST /api/reward/pull gives the scores of one
reward once they are there (status 400 before). Numbers are by dimension, larger is better; where one of a batch is
missing the answer has `scores: null` and the reason, as that service's own handlers do. Latents, which its client sends
of videos, need its tokenizer's decoder and are refused.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from urllib.parse import parse_qs

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from visalign.errors import UserError
from visalign.rewards.web.wire import SampleScores
from visalign.serving.forms.unirl import numbers_of
from visalign.serving.intake import Given, Refusal, json_object, read_form
from visalign.serving.media import Decoded, media_of_array, read_array
from visalign.serving.service import RewardService

KEPT, KEPT_SECONDS = 4096, 900.0
"""How many answers are kept for their clients, and for how long."""
DEFAULT_FPS = 16.0
PULL_BYTES = 10_000


class VideoInfo(BaseModel):
    """What is said of one video; other keys are ignored."""

    video_fps: float | None = None


class EnqueueForm(BaseModel):
    """The first line; other keys, which single rewards of that service read, are ignored."""

    prompts: list[str]
    reward_fn: dict[str, float]
    media_type: str = "latent"
    video_infos: list[VideoInfo] = []

    def given(self, array: bytes) -> list[Given]:
        """Raises Refusal for latents, and for an array that is not one of as many media as there are prompts."""
        if self.media_type not in ("image", "video"):
            raise Refusal(415, f"media_type is {self.media_type[:40]!r}: latents cannot be decoded here; send images "
                               "or videos as uint8 values, with media_type image or video")
        fps = next((info.video_fps for info in self.video_infos if info.video_fps), DEFAULT_FPS)
        try:
            media = media_of_array(read_array(array), self.media_type, fps)
        except UserError as error:
            raise Refusal(422, str(error)) from None
        if len(media) != len(self.prompts):
            raise Refusal(422, f"{len(self.prompts)} prompts and {len(media)} {self.media_type}s; give as many of each")
        return [Given(prompt, Decoded(each), group=prompt) for prompt, each in zip(self.prompts, media, strict=True)]


class CosmosForm:
    """POST /api/reward/ping, /api/reward/enqueue and /api/reward/pull."""

    name = "cosmos_rl"

    def __init__(self, service: RewardService):
        self.service = service
        self.asked: OrderedDict[str, tuple[float, asyncio.Task]] = OrderedDict()
        self.routes = (("POST", "/api/reward/ping", self.ping), ("POST", "/api/reward/enqueue", self.enqueue),
                       ("POST", "/api/reward/pull", self.pull))

    async def ping(self, request: Request) -> JSONResponse:
        return JSONResponse({"message": "Ping request received"})

    async def enqueue(self, request: Request) -> JSONResponse:
        service = self.service
        async with service.intake.body(request) as body:
            line, found, array = body.partition(b"\n")
            if not found:
                raise Refusal(422, "expected a line of JSON and after it a .npy array")
            form = read_form(EnqueueForm, json_object(line, "the first line"))
            rewards = service.panel.named([name for name, weight in form.reward_fn.items() if weight > 0])
            service.intake.check_count(len(form.prompts))
            given = await service.intake.work(form.given, array)
        service.intake.check_room(len(given), sum(each.pixels for each in given))
        self._forget()
        number = str(uuid.uuid4())
        self.asked[number] = time.monotonic(), asyncio.create_task(service.score(given, rewards))
        return JSONResponse({"uuid": number})

    def _forget(self) -> None:
        """Drop answers that nobody has fetched for long, or that are too many; never one that is still to come."""
        for number, (since, task) in list(self.asked.items()):
            if task.done() and (time.monotonic() - since > KEPT_SECONDS or len(self.asked) >= KEPT):
                task.exception()  # seen
                del self.asked[number]
        if len(self.asked) >= KEPT:
            raise Refusal(503, "too many requests are still to be answered; ask again", again=1)

    async def pull(self, request: Request) -> JSONResponse:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > PULL_BYTES:
                raise Refusal(413, "expected uuid and type")
        fields = parse_qs(body.decode("utf-8", "replace"))
        number, name = fields.get("uuid", [""])[0], fields.get("type", [None])[0]
        reward = self.service.panel.served[self.service.panel.named(None if name is None else [name])[0]]
        _, task = self.asked.get(number, (0, None))
        if task is None or not task.done():
            return JSONResponse({"message": f"Not found scores for {number[:80]}"}, 400)
        rows = [row.get(reward.name) for row in task.result()]
        if None in rows:
            raise Refusal(422, f"{reward.name} was not in the reward_fn of {number[:80]}")
        return JSONResponse({"type": reward.name, "input_info": {}, "duration": "0.00", "decoded_duration": "0.00"}
                            | self._scores(reward, rows))

    @staticmethod
    def _scores(reward, rows: list[SampleScores]) -> dict:
        found = [numbers_of(reward, row) for row in rows]
        missing = next((i for i, each in enumerate(found) if len(each) < len(reward.dimensions)), None)
        if missing is not None:
            return {"scores": None, "error": f"sample {missing}: {rows[missing].remark}"}
        return {"scores": {each: [row[each] for row in found] for each in reward.dimensions}}
