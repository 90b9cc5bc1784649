"""The web server: the page, the media it shows, reports of runs, and who may see them."""

import base64
import hmac
import os

import gradio as gr
from fastapi import FastAPI, HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from visalign.errors import UserError
from visalign_demo import board_tab, compare_tab, runs_tab, score_tab, train_tab, vote_tab
from visalign_demo.claims import Customs
from visalign_demo.context import HERE, Demo, Settings
from visalign_demo.gate import Gate
from visalign_demo.page import Page
from visalign_demo.score_tab import MOST_FILES

LOOPBACK = ("127.0.0.1", "localhost", "::1")
REPORT_POLICY = ("sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
                 "script-src 'none'")


class BasicAuth:
    """Asks for a user and password before anything is answered, media and reports included."""

    def __init__(self, app: ASGIApp, user: str, password: str):
        self.app = app
        self._wanted = base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._knows(dict(scope["headers"]).get(b"authorization", b"")):
            await self.app(scope, receive, send)
        else:
            refusal = Response("A user and password are needed.", 401, {"WWW-Authenticate": 'Basic realm="visalign"'})
            await refusal(scope, receive, send)

    def _knows(self, header: bytes) -> bool:
        kind, _, given = header.partition(b" ")
        return kind.lower() == b"basic" and hmac.compare_digest(given.strip(), self._wanted)


def blocks_of(demo: Demo) -> gr.Blocks:
    """The page: one tab a file."""
    with Page(title="visalign", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        demo.page = page
        gr.HTML("<header class='va-header'><h1>visalign</h1><p>Look at models side by side, judge them blind, and "
                "train on the votes.</p></header>")
        with gr.Tabs():
            with gr.Tab("Compare", id="compare"):
                compare_tab.build(demo)
            with gr.Tab("Blind vote", id="vote"):
                vote_tab.build(demo)
            with gr.Tab("Leaderboard", id="board") as tab:
                board_tab.build(demo, tab)
            with gr.Tab("Score", id="score"):
                score_tab.build(demo)
            with gr.Tab("Runs", id="runs") as tab:
                runs_tab.build(demo, tab)
            with gr.Tab("Train on my votes", id="train") as tab:
                train_tab.build(demo, tab)

        def forget(request: gr.Request) -> None:
            demo.forget(request.session_hash)

        page.unload(forget)
    page.queue(max_size=64, default_concurrency_limit=8)
    return page


def app_of(demo: Demo) -> FastAPI:
    """The whole application, ready for a server."""
    app, settings = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), demo.settings

    @app.get("/media/{name}")
    def media(name: str) -> Response:
        file = demo.shelf.find(name)
        if file is None:
            raise HTTPException(404)
        return FileResponse(file, headers={"Cache-Control": "private, max-age=86400, immutable",
                                           "X-Content-Type-Options": "nosniff"})

    @app.get("/report/{name:path}")
    def report(name: str) -> Response:
        run = next((run for run in runs_tab.find_runs(settings.runs) if run.name == name), None)
        file = run and run.path / "report.html"
        if file is None or not file.is_file() or file.is_symlink():
            raise HTTPException(404)
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    app.add_middleware(Customs, claims=demo.claims, root="", most_upload=MOST_FILES * settings.upload_megabytes * 2**20)
    app.add_middleware(Gate)
    if settings.host in LOOPBACK:  # a page elsewhere must not reach this server by a name that points here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    if settings.user:
        app.add_middleware(BasicAuth, user=settings.user, password=settings.password or "")
    os.environ["GRADIO_TEMP_DIR"] = str(demo.claims.uploads)  # its default is a folder that all apps of a machine share
    static = HERE / "static"
    return gr.mount_gradio_app(
        app, blocks_of(demo), path="/", run_history=False, mcp_server=False, server_name=settings.host,
        server_port=settings.port, footer_links=[], max_file_size=f"{settings.upload_megabytes}mb", show_error=False,
        ssr_mode=False, enable_monitoring=False, css_paths=static / "page.css",
        head=f"<script>{(static / 'keys.js').read_text()}</script>",
        theme=theme())


def theme() -> gr.themes.Base:
    """Fonts of the reader's own machine, since nothing is fetched, and a blue that white text stands out on."""
    base = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"],
                             font_mono=["ui-monospace", "monospace"])
    return base.set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")


def serve(settings: Settings) -> None:
    """Run until interrupted. Raises UserError for what can be mended, a port that is taken among it."""
    import socket

    import uvicorn

    if settings.user and not settings.password:
        raise UserError("demo: --user needs a password (--password, or VISALIGN_DEMO_PASSWORD)")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    demo = Demo(settings)
    kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((settings.host, settings.port))
        except OSError as error:
            raise UserError(f"demo: {settings.host}:{settings.port} cannot be served ({error.strerror}); choose "
                            "another --port") from None
    demo.pool.start()
    config = uvicorn.Config(app_of(demo), host=settings.host, port=settings.port, log_level="warning")
    print(f"visalign demo on http://{settings.host}:{settings.port}", flush=True)
    uvicorn.Server(config).run()
