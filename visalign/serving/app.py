"""The web application: routes of every form, the token, refusals as one sentence, and metrics."""

import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from visalign.errors import UserError
from visalign.serving.forms.cosmos import CosmosForm
from visalign.serving.forms.flow_factory import FlowFactoryForm
from visalign.serving.forms.own import OwnForm
from visalign.serving.forms.unirl import UniRLForm
from visalign.serving.intake import Refusal
from visalign.serving.panel import LOG, RewardPanel
from visalign.serving.service import RewardService
from visalign.serving.settings import ServeSettings

REQUEST_FORMS = (OwnForm, UniRLForm, CosmosForm, FlowFactoryForm)
"""In the order in which their routes are tried: Flow-Factory's hold a name at their place."""
Handler = Callable[[Request], Awaitable[Response]]


def make_app(panel: RewardPanel, settings: ServeSettings) -> FastAPI:
    """The application that serves `panel`."""
    service = RewardService(panel, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    door = Door(service)
    for form in (make(service) for make in REQUEST_FORMS):
        for method, path, handler in form.routes:
            app.add_api_route(path, door.guarded(form.name, handler), methods=[method], response_model=None)
    app.add_api_route("/metrics", door.guarded("metrics", door.metrics), methods=["GET"], response_model=None)
    app.add_api_route("/{path:path}", door.guarded("other", door.elsewhere), methods=["GET", "POST"],
                      response_model=None)
    return app


class Door:
    """Lets requests in, and says why it does not."""

    def __init__(self, service: RewardService):
        self.service = service
        self.token = service.settings.token

    def guarded(self, form: str, handler: Handler) -> Handler:
        """The handler behind the token, its refusals answered with their sentence."""
        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._answer(request, handler)
            self.service.metrics.requests.labels(form, str(response.status_code)).inc()
            self.service.metrics.request_seconds.labels(form).observe(time.perf_counter() - started)
            return response

        return answer

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            self._check_token(request)
            return await handler(request)
        except Refusal as refusal:
            return one_sentence(refusal.status, refusal.sentence,
                        {} if refusal.again is None else {"Retry-After": str(refusal.again)})
        except UserError as error:
            return one_sentence(400, str(error))
        except ClientDisconnect:
            return one_sentence(400, "the client left before its request was whole")
        except Exception as error:  # a mistake here must not end the server, nor tell its insides
            LOG.error("a request failed", exc_info=error)
            return one_sentence(500, f"the server made a mistake ({type(error).__name__}); its log says more")

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if self.token is not None and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise Refusal(401, "this server wants its token, as `Authorization: Bearer TOKEN`")

    async def metrics(self, request: Request) -> Response:
        return Response(self.service.metrics.text(), media_type=self.service.metrics.type)

    async def elsewhere(self, request: Request) -> Response:
        """Pickles of flow_grpo and VeRL-Omni are sent to any address; `body` refuses them."""
        async with self.service.intake.body(request):
            raise Refusal(404, f"nothing is served at {request.url.path[:80]}; scores are at /v1/score")


def one_sentence(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One sentence, under the names by which clients look for it."""
    return JSONResponse({"error": sentence, "detail": sentence}, status, headers)
