"""No file of the server gets out: every endpoint, input and download route is tried with a secret, today's and new."""

import itertools
import json
import os
import re
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.demo.conftest import write_folder
from visalign_demo.context import Demo, DemoSettings
from visalign_demo.server import app_of

SECRET, HERE = "the-password-of-this-machine", "http://127.0.0.1:7860"
META = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def demo(folder):
    models = {"plain": str(write_folder(folder / "plain", 60)), "tuned": str(write_folder(folder / "tuned", 220))}
    return Demo(DemoSettings(models, (), folder / "book", folder / "runs", rewards=("saturation",), pairs=0,
                         allow_train=True))


@pytest.fixture(scope="module")
def served(demo):
    with TestClient(app_of(demo), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(served):
    """One that nobody knows yet."""
    served.cookies.clear()
    return served


@pytest.fixture(scope="module")
def secrets(folder, demo):
    """Paths of a secret outside every folder of the demo: as a file, an image, a link to it, a way round."""
    for name in ("secret.txt", "secret.png", "secret.svg"):
        (folder / name).write_text(SECRET)
    os.symlink(folder / "secret.txt", folder / "link.png")
    os.symlink(folder / "secret.txt", demo.claims.uploads / "link.png")
    found = [folder / "secret.txt", folder / "secret.png", folder / "secret.svg", folder / "link.png",
             demo.claims.uploads / "link.png", f"{demo.claims.uploads}/../../..{folder}/secret.txt"]
    return [str(path) for path in found]


def shapes(path):
    """All forms in which a request can name a file."""
    path, address = str(path), f"file://{path}"
    file = {"path": path, **META}
    yield from (path, address, [path], [[path]], file, [file], {"path": path}, [[file, "caption"]],
                {"image": file, "caption": None}, {"video": file}, {"value": file}, {"files": [file], "text": ""},
                {"path": "x.png", "url": address, **META}, {"path": address, **META}, {"data": path, "name": path},
                {"path": path, "url": None, "is_stream": True, **META},
                {"path": path, "url": "/gradio_api/file=" + path, "orig_name": "a.png", **META})


def heard(client, answer):
    """What a call says, its events included."""
    said = answer.text
    if answer.status_code == 200 and "event_id" in (said := answer.text):
        said += client.get(f"/gradio_api/call/x/{answer.json()['event_id']}").text
    return said


def ways(client, function, data):
    """Every way to call an endpoint."""
    body = {"data": data, "fn_index": function._id, "session_hash": "mine"}
    name = quote(str(function.api_name))
    yield client.post(f"/gradio_api/run/{name}", json={"data": data, "session_hash": "mine"})
    yield client.post(f"/gradio_api/api/{name}", json=body)
    yield client.post(f"/gradio_api/call/{name}", json={"data": data})
    yield client.post(f"/gradio_api/call/v2/{name}", json={"x": data})
    yield client.post("/gradio_api/queue/join", json=body | {"session_hash": f"queue-{function._id}"})
    yield client.post("/gradio_api/run/predict", json=body | {"batched": True, "data": [data], "event_data": data})


def copies(demo):
    """Files of the demo's own folders that hold the secret."""
    return [file for folder in (demo.scratch, demo.book.folder) for file in folder.rglob("*")
            if file.is_file() and not file.is_symlink() and SECRET.encode() in file.read_bytes()]


def test_no_endpoint_takes_a_path_that_its_client_did_not_upload(client, demo, secrets):
    functions = [function for function in demo.page.fns.values() if function.inputs]
    assert len(functions) > 15
    for function in functions:
        for shape in shapes(secrets[0]):
            data = [shape] * len(function.inputs)
            answer = client.post("/gradio_api/run/predict", json={"data": data, "fn_index": function._id})
            assert SECRET not in answer.text
            if "{" in json.dumps(shape):
                assert answer.status_code == 403 and "has uploaded" in answer.text, (function.api_name, shape)
        for answer in ways(client, function, data):
            assert answer.status_code in (403, 404), (function.api_name, answer.url, answer.text)
    assert not copies(demo)


def test_no_input_of_any_component_opens_what_a_request_names(client, demo, secrets):
    """Also as words, in each place alone, among values that are right."""
    forms = itertools.cycle(form for secret in secrets
                            for form in (secret, [secret], f"file://{secret}", {"path": secret, **META}))
    for function in demo.page.fns.values():
        right = [block.value if not callable(block.value) else None for block in function.inputs]
        for place in range(len(right)):
            for form in itertools.islice(forms, 5):
                data = [form if i == place else value for i, value in enumerate(right)]
                answer = client.post("/gradio_api/run/predict", json={"data": data, "fn_index": function._id,
                                                                      "session_hash": "s"})
                assert SECRET not in answer.text, (function.api_name, place)
    assert not copies(demo)


def test_no_component_offers_functions_of_its_own(client, demo, secrets):
    for number, block in demo.page.blocks.items():
        names = {name for name in dir(type(block)) if getattr(getattr(type(block), name, None), "_is_server_fn", False)}
        for name in names | {"ls"}:
            body = {"component_id": number, "fn_name": name, "session_hash": "mine", "data": secrets[0]}
            assert client.post("/gradio_api/component_server", json=body).status_code == 404
    assert client.post("/gradio_api/component_server/", json=body).status_code == 404
    assert client.post("/gradio_api/component_server", data=body).status_code == 404


def test_no_download_route_gives_the_secret_away(client, secrets):
    for secret in secrets[2:]:
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/media/", "/report/", "/static/", "/assets/",
                      "/svelte/", "/gradio_api/proxy=", "/gradio_api/file=file://", "/"):
            for path in (secret, secret.lstrip("/"), quote(secret, safe=""), "..%2f" * 12 + secret.lstrip("/"),
                         "../" * 12 + secret.lstrip("/"), f"%2e%2e/{secret}", f"/{secret}"):
                assert SECRET not in client.get(HERE + route + path).text, route + path


def routes_of(app):
    """All routes below an app, mounted and included ones too."""
    for route in app.routes:
        inner = getattr(route, "app", None) or getattr(route, "original_router", None)
        if getattr(route, "methods", None):
            yield route
        elif hasattr(inner, "routes"):
            yield from routes_of(inner)


def test_every_route_of_the_framework_is_closed_unless_it_stands_in_the_gate(client):
    """So that a new version's new routes do not open by themselves."""
    answered = set()
    for route in routes_of(client.app):
        for method in route.methods - {"HEAD"}:
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            if "dev/reload" in path or "heartbeat" in path or "queue/data" in path:
                continue  # these answer without end
            if client.request(method, HERE + path).text != "Not found.":
                answered.add(f"{method} {route.path}")
    closed = ("proxy", "deep_link", "component_server", "recording", "vibe", "monitoring", "history", "runs", "token",
              "login", "custom_component", "/stream", "startup", "POST /gradio_api/call/v2", "file/{")
    assert not [name for name in answered if any(word in name for word in closed)], answered
    assert {"GET /", "POST /gradio_api/queue/join", "POST /gradio_api/upload", "GET /media/{name}"} <= answered


def image(colour="red"):
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "png")
    return out.getvalue()


def upload(client, name="a.png", content=None):
    answer = client.post("/gradio_api/upload", files={"files": (name, content or image(), "image/png")})
    assert answer.status_code == 200, answer.text
    [path] = answer.json()
    return path


def score(client, path, **more):
    file = {"path": path, **META, **more}
    answer = client.post("/gradio_api/call/score", json={"data": [[file], "", ["saturation"]]})
    return heard(client, answer)


def test_a_client_s_own_upload_is_scored_and_can_be_looked_at(client):
    client.get("/")
    path = upload(client)
    assert "saturation score" in score(client, path)
    assert client.get(f"/gradio_api/file={path}").content == image()
    assert "saturation score" in score(client, path, url=f"http://127.0.0.1:7860/gradio_api/file={path}", size=3)


def test_a_client_that_never_saw_the_page_is_known_from_its_upload_on(client):
    assert "saturation score" in score(client, upload(client))


def test_another_client_s_upload_is_refused(client):
    client.get("/")
    path = upload(client)
    stranger = TestClient(client.app, base_url=HERE)
    for greet in (False, True):
        if greet:
            stranger.get("/")
        assert "must be one that this page has uploaded" in score(stranger, path)
        assert stranger.get(f"/gradio_api/file={path}").status_code == 403
    assert stranger.get(f"/gradio_api/file={path}", headers={"Cookie": "visalign-client="}).status_code == 403


def test_a_name_cannot_lead_an_upload_out_of_its_folder(client, demo):
    for name in ("../../escaped.png", "..\\..\\escaped.png", "/etc/escaped.png", "a/../../escaped.png", "x" * 4000):
        path = upload(client, name)
        assert os.path.realpath(path).startswith(f"{os.path.realpath(demo.claims.uploads)}/")


def test_no_address_is_fetched_for_a_client(client, monkeypatch):
    import httpx
    import safehttpx

    fetched = []
    monkeypatch.setattr(safehttpx, "get", lambda *a, **k: fetched.append(a))
    monkeypatch.setattr(httpx.Client, "stream", lambda *a, **k: fetched.append(a))
    own = upload(client)
    for address in ("http://127.0.0.1:9/x.png", "http://169.254.169.254/latest", "https://huggingface.co/x.png"):
        assert "must be one that this page has uploaded" in score(client, address)
        assert "must be one that this page has uploaded" in score(client, "", url=address)
        assert "saturation score" in score(client, own, url=address)  # only the path counts
        for route in ("file=", "proxy=", "file/"):
            assert client.get(f"/gradio_api/{route}{address}").status_code in (403, 404)
    assert not fetched


def test_a_session_belongs_to_the_page_that_named_it(client):
    client.get("/")
    body = {"data": ["ann", ""], "session_hash": "of-ann"}
    assert client.post("/gradio_api/run/ballot", json=body).status_code == 200
    stranger = TestClient(client.app, base_url=HERE)
    for greet in (False, True):
        if greet:
            stranger.get("/")
        assert stranger.post("/gradio_api/run/ballot", json=body).status_code == 403
        assert stranger.post("/gradio_api/cancel", json={"session_hash": "of-ann", "fn_index": 1, "event_id": "x"}
                             ).status_code == 403
        assert stranger.get("/gradio_api/queue/data?session_hash=of-ann").status_code == 403
        assert stranger.get("/gradio_api/heartbeat/of-ann").status_code == 403


def test_old_uploads_make_way_for_new_ones(demo, client, monkeypatch):
    first = upload(client, content=image("red"))
    os.utime(first, (1, 1))
    monkeypatch.setattr(demo.claims, "room", 3 * 4096 + 2048)
    rest = [upload(client, content=image(colour)) for colour in ("green", "blue", "white")]
    assert not os.path.exists(first) and os.path.exists(rest[-1])


@pytest.mark.parametrize("body, words", [
    (b"no json", "must be JSON"), (b"[" * 100_000, "must be JSON"), (b"[]", "JSON object"),
    (b'{"data": [NaN]}', "must be JSON"),
    (b'{"data": "x"}', "'data' in a request must be a JSON array"), (b'{"data": [], "fn_index": "x"}', "'fn_index'"),
    (b'{"data": [], "fn_index": true}', "'fn_index'"), (b'{"data": [], "session_hash": 1}', "'session_hash'"),
    (b'{"data": [' + b"[" * 50 + b"]" * 50 + b"]}", "nested too deeply"),
    (b'{"data": [], "session_hash": "' + b"x" * 101 + b'"}', "at most 100 characters"),
    (b'{"data": ["' + b"x" * 300_000 + b'"]}', "at most 262144 bytes")])
def test_a_body_that_no_page_sends_is_refused_in_a_sentence(client, body, words):
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        answer = client.post("/gradio_api/run/ballot", content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500 and words in answer.json()["detail"]
