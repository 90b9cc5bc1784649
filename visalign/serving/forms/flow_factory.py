"""Flow-Factory's form (X-GenGroup/Flow-Factory, RemotePointwiseRewardModel and RemoteGroupwiseRewardModel).

POST /compute takes lists of prompts and of images, or of videos as lists of frames, in base64, and answers with one
number for each: the reward's first dimension, its sign such that larger is better. Where several rewards are served,
`server_url` ends in the name of one. The form has no place for a score that is missing, so a request with one is
refused with its reason. All samples of a request are one group, as the groupwise model sends them.
"""

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from visalign.errors import UserError
from visalign.rewards.web.wire import SampleScores, ServedReward
from visalign.serving.forms.own import encoded
from visalign.serving.intake import Given, Refusal, read_form
from visalign.serving.media import Encoded, Reference, RequestMedia
from visalign.serving.service import RewardService

THE_GROUP = "request"


class ComputeForm(BaseModel):
    """Lists of one length; further keys, such as `extra`, are ignored as Flow-Factory's own server does."""

    prompt: list[str]
    image: list[str] | None = None
    video: list[list[str]] | None = None
    condition_images: list[list[str]] | None = None
    condition_videos: list | None = None

    def given(self, store: RequestMedia) -> list[Given]:
        if self.condition_videos:
            raise Refusal(422, "condition_videos: rewards here see source images, and no source videos")
        media = self.video or self.image or []
        sources = self.condition_images or [[]] * len(self.prompt)
        if not len(media) == len(sources) == len(self.prompt):
            raise Refusal(422, f"{len(self.prompt)} prompts, {len(media)} images or videos and {len(sources)} "
                               "condition_images; give as many of each")
        return [self._given(*each, store) for each in zip(self.prompt, media, sources, strict=True)]

    @staticmethod
    def _given(prompt: str, media: str | list[str], sources: list[str], store: RequestMedia) -> Given:
        found = Given(prompt, group=THE_GROUP)
        try:
            found.media = (encoded(media, "image", store) if isinstance(media, str)
                           else encoded(Reference(frames=media), "video", store))
            found.sources = [Encoded(store.opened(each), "image") for each in sources]
        except UserError as error:
            found.problem = str(error)
        return found


def larger_is_better(reward: ServedReward, value: float) -> float:
    return value if reward.higher_is_better else -value


class FlowFactoryForm:
    """POST /compute and POST /REWARD/compute; its health checks are GET /health and GET /REWARD/health."""

    name = "flow_factory"

    def __init__(self, service: RewardService):
        self.service = service
        self.routes = (("POST", "/compute", self.compute), ("POST", "/{reward}/compute", self.compute),
                       ("GET", "/{reward}/health", self.health))

    def _reward(self, request: Request) -> ServedReward:
        panel, name = self.service.panel, request.path_params.get("reward")
        if name is None and len(panel.served) > 1:
            raise Refusal(400, f"this server has several rewards; end server_url with one of {', '.join(panel.served)}")
        return panel.served[panel.named(None if name is None else [name])[0]]

    async def health(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "reward": self._reward(request).name})

    async def compute(self, request: Request) -> JSONResponse:
        service = self.service
        async with service.intake.body(request) as body:
            reward = self._reward(request)
            form = await service.intake.work(read_form, ComputeForm, body)
            service.intake.check_count(len(form.prompt))
            given = await service.intake.work(form.given, RequestMedia((), service.settings.max_bytes))
            rows = await service.score(given, (reward.name,))
        return JSONResponse({"rewards": [self._number(reward, i, row[reward.name]) for i, row in enumerate(rows)]})

    @staticmethod
    def _number(reward: ServedReward, i: int, said: SampleScores) -> float:
        if said.values[0] is None:
            raise Refusal(422, f"sample {i}: {reward.name} has no score for it ({said.remark}), and this form has no "
                               "place for that; /v1/score has")
        return larger_is_better(reward, said.values[0])
