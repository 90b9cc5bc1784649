"""The web server: the page, the media it shows, reports of runs, and who may see them."""

import os
import time

import gradio as gr
from fastapi import FastAPI, HTTPException
from starlette.responses import FileResponse, Response

from visalign.errors import UserError
from visalign_demo import board_tab, compare_tab, runs_tab, score_tab, train_tab, vote_tab
from visalign_demo.claims import Customs, Refused
from visalign_demo.context import HERE, Demo, DemoSettings
from visalign_demo.gate import LOOPBACK, Proxies, RequestGate, check_names
from visalign_demo.login import BasicAuth
from visalign_demo.page import Page
from visalign_demo.score_tab import MOST_FILES

REPORT_POLICY = ("sandbox; default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
                 "script-src 'none'; frame-ancestors 'self'")


def blocks_of(demo: Demo) -> Page:
    """The page: one tab a file."""
    with Page(title="visalign", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        demo.page = page
        gr.HTML("<header class='va-header'><h1>visalign</h1><p>Look at models side by side, vote on them blind, and "
                "train on the votes.</p></header>")
        texts = demo.modality == "text"  # answers are voted on; nothing here makes them, or learns from votes on them
        with gr.Tabs():
            if not texts:
                with gr.Tab("Compare", id="compare"):
                    compare_tab.build_compare_tab(demo)
            with gr.Tab("Blind vote", id="vote"):
                vote_tab.build_vote_tab(demo)
            with gr.Tab("Leaderboard", id="board") as tab:
                board_tab.build_board_tab(demo, tab)
            if not texts:
                with gr.Tab("Score", id="score"):
                    score_tab.build_score_tab(demo)
            with gr.Tab("Runs", id="runs") as tab:
                runs_tab.build_runs_tab(demo, tab)
            if not texts:
                with gr.Tab("Train on my votes", id="train") as tab:
                    train_tab.build_train_tab(demo, tab)

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
        file = demo.media_store.find(name)
        if file is None:
            raise HTTPException(404)
        return FileResponse(file, filename="scores.csv" if file.suffix == ".csv" else None,
                            headers={"Cache-Control": "private, max-age=86400, immutable"})

    @app.get("/report/{name:path}")
    def report(name: str) -> Response:
        run = next((run for run in runs_tab.find_runs(settings.runs) if run.name == name), None)
        file = run and run.path / "report.html"
        if file is None or not file.is_file() or file.is_symlink():
            raise HTTPException(404)
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    os.environ["GRADIO_TEMP_DIR"] = str(demo.claims.uploads)  # the default folder is shared by all apps of a machine
    page = blocks_of(demo)

    def admit(address: str, route: str, body: dict) -> None:
        try:
            demo.admit(address, page.name_of(route, body) or route)
        except UserError as error:
            raise Refused(str(error), 429) from None

    app.add_middleware(Customs, claims=demo.claims, root=settings.root, admit=admit,
                       most_upload=MOST_FILES * settings.upload_megabytes * 2**20)
    if settings.user:
        app.add_middleware(BasicAuth, user=settings.user, password=settings.password or "", clock=time.monotonic)
    app.add_middleware(RequestGate, names=(settings.host, *settings.allowed_hosts), root=settings.root)
    app.add_middleware(Proxies, trusted=settings.trusted_proxies)  # the last middleware added sees a request first
    static = HERE / "static"
    return gr.mount_gradio_app(
        app, page, path="/", run_history=False, mcp_server=False, server_name=settings.host,
        server_port=settings.port, footer_links=[], max_file_size=f"{settings.upload_megabytes}mb", show_error=False,
        root_path=settings.root or None, ssr_mode=False, enable_monitoring=False,
        css_paths=static / "page.css", head=f"<script>{(static / 'keys.js').read_text()}</script>", theme=theme())


def theme() -> gr.themes.Base:
    """System fonts, since nothing is fetched, and a blue with enough contrast for white text."""
    base = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"],
                             font_mono=["ui-monospace", "monospace"])
    return base.set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")


def check_access(settings: DemoSettings) -> None:
    """Raise UserError for an incomplete login, and for invalid hosts and proxies."""
    if settings.user is not None and not settings.password:
        raise UserError("demo: --user needs a password (--password, or VISALIGN_DEMO_PASSWORD)")
    if settings.password is not None and not settings.user:
        raise UserError("demo: --password (or VISALIGN_DEMO_PASSWORD) needs a --user; without one there is no login")
    if ":" in (settings.user or ""):
        raise UserError("demo: --user cannot hold a colon, which separates name and password in a login")
    check_names(settings.allowed_hosts, settings.trusted_proxies, settings.root)


def serve(settings: DemoSettings) -> None:
    """Run until interrupted. Raises UserError for what the user can fix, such as a port in use."""
    import socket

    import uvicorn

    check_access(settings)
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
    config = uvicorn.Config(app_of(demo), host=settings.host, port=settings.port, log_level="warning",
                            proxy_headers=False, server_header=False)
    if settings.host not in LOOPBACK and not settings.user:
        print(f"visalign demo: anyone who reaches {settings.host} can use it; --user and --password require a login")
    print(f"visalign demo on http://{settings.host}:{settings.port}", flush=True)
    uvicorn.Server(config).run()
