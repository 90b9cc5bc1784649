"""visalign's own form: JSON, or a multipart form whose field `request` is that JSON and whose files its parts."""

from typing import Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from visalign import __version__
from visalign.errors import UserError
from visalign.rewards.web.wire import PROTOCOL, told_scores
from visalign.serving.intake import Given, Refusal, read_form, read_parts
from visalign.serving.media import Encoded, Reference, RequestMedia, Written
from visalign.serving.service import RewardService

FIELD = "request"
"""The field of a multipart form that holds the JSON."""
PARTS = 16_384
"""Most files of one multipart form: images, and frames of videos."""


class SampleForm(BaseModel):
    """One sample: its prompt, an image, a video or an answer, and of edits the source images, notes and mask."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = ""
    image: str | Reference | None = None
    video: str | Reference | None = None
    answer: str | None = None
    sources: list[str | Reference] = []
    mask: str | Reference | None = None
    notes: dict[Literal["requirement", "source_caption", "target_caption"], str] = {}
    seed: int | None = None
    group: str | int | None = None

    def given(self, store: RequestMedia) -> Given:
        """What came, and why it has no media where it has none."""
        found = Given(self.prompt, notes=dict(self.notes), seed=self.seed,
                      group=None if self.group is None else str(self.group))
        try:
            if sum(each is not None for each in (self.image, self.video, self.answer)) != 1:
                raise UserError("a sample has an image, a video or an answer")
            if self.answer is not None:
                found.media = Written(self.answer)
            else:
                found.media = (encoded(self.image, "image", store) if self.video is None
                               else encoded(self.video, "video", store))
            found.sources = [encoded(each, "image", store) for each in self.sources]
            found.mask = None if self.mask is None else encoded(self.mask, "image", store)
        except UserError as error:
            found.problem = str(error)
        return found


class ScoreForm(BaseModel):
    """A request: samples, and the rewards that they are to be scored by, all where none is named."""

    model_config = ConfigDict(extra="forbid")

    samples: list[SampleForm]
    rewards: list[str] | None = None
    protocol: Literal[1] = PROTOCOL


def encoded(reference: str | Reference, kind: str, store: RequestMedia) -> Encoded:
    data = store.opened(reference)
    if isinstance(data, list) and kind == "image":
        raise UserError("an image has no frames; give it as a video")
    return Encoded(data, kind, reference.fps if isinstance(reference, Reference) else 8.0)


class OwnForm:
    """POST /v1/score and GET /v1/health."""

    name = "visalign"

    def __init__(self, service: RewardService):
        self.service = service
        self.routes = (("POST", "/v1/score", self.score), ("GET", "/v1/health", self.health))

    async def score(self, request: Request) -> JSONResponse:
        service = self.service
        async with service.intake.body(request) as body:
            form, parts = await self._read(request, body)
            rewards = service.panel.named(form.rewards)
            store = RequestMedia(service.settings.folders, service.settings.max_bytes, parts)
            service.intake.check_count(len(form.samples))
            given = await service.intake.work(lambda: [each.given(store) for each in form.samples])
            rows = await service.score(given, rewards)
        return JSONResponse(told_scores(rows, [service.panel.served[name] for name in rewards]))

    async def _read(self, request: Request, body: bytes) -> tuple[ScoreForm, dict[str, bytes]]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return await self.service.intake.work(read_form, ScoreForm, body), {}
        if kind != "multipart/form-data":
            raise Refusal(415, f"Content-Type is {kind[:80] or 'missing'}; send application/json or "
                               "multipart/form-data")
        files, fields = await read_parts(request, body, PARTS)
        text = fields.get(FIELD, files.pop(FIELD, None))
        if text is None:
            raise Refusal(422, f"the form has no field {FIELD}, which holds the samples as JSON")
        return read_form(ScoreForm, text), files

    async def health(self, request: Request) -> JSONResponse:
        panel, settings = self.service.panel, self.service.settings
        told = {"protocol": PROTOCOL, "visalign": __version__, "status": "failing" if panel.failing else "ok",
                "rewards": [each.told() for each in panel.served.values()],
                "limits": {"max_mb": settings.max_mb, "max_samples": settings.max_samples}}
        failing = {"problem": panel.failing} if panel.failing else {}
        return JSONResponse(told | failing, 503 if panel.failing else 200)
