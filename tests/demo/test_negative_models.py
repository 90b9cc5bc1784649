"""Models with a negative adapter in the demo: what the command named, what a visitor may choose, what is refused."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.demo.conftest import write_folder
from tests.families import load_tiny
from tests.generators.lora.random_lora import write_random_lora
from visalign.errors import UserError
from visalign_demo.compare_tab import AS_NAMED, CompareRequest, CompareView, make, negative_choices, stream
from visalign_demo.context import Demo, DemoSettings
from visalign_demo.model_worker import ModelWorker
from visalign_demo.server import app_of


@pytest.fixture(scope="module")
def loras(pipelines, tmp_path_factory):
    """The folder of the tiny SDXL and two random LoRAs for it."""
    sdxl, folder = str(pipelines("sdxl")), tmp_path_factory.mktemp("loras")
    generator = load_tiny(sdxl, "sdxl")
    return sdxl, *(write_random_lora(generator, folder / name, seed) for seed, name in enumerate(("good", "bad")))


@pytest.fixture
def settings(loras, tmp_path):
    sdxl, good, bad = loras
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
    models = {"base": sdxl, "good": f"{sdxl}+{good}", "away": f"{sdxl}+{good}+negative:0.5:{bad}",
              "old": str(write_folder(tmp_path / "made", 60, prompts=["a red fruit"]))}
    return DemoSettings(models, ("precision=fp32", "prompt_tokens=8"), tmp_path / "book", tmp_path / "runs", steps=2,
                        prompts=str(tmp_path / "prompts.txt"), guidance_scale=3.0, rewards=(), pairs=0)


@pytest.fixture
def demo(settings):
    return Demo(settings)


def asked(models, negative=AS_NAMED, scale=3.0, **more):
    return CompareRequest("a red fruit", models, 7, 1, 2, scale, 1.0, [], negative=negative, **more)


def images(demo, request):
    """What the page shows of each model, and the page."""
    views = [news for news in demo.model_worker.submit(lambda job: make(demo, request.checked(demo.sources), job))
             if isinstance(news, CompareView)]
    shown = {name: (demo.media_store.folder / cards[0].medium.rpartition("/")[2]).read_bytes()
             for name, cards in views[-1].columns.items()}
    return shown, views[-1].html()


def test_a_visitor_may_take_away_or_give_what_the_command_named(demo):
    assert negative_choices(demo.sources) == {"": "each model's own", "none": "none", "of away": "that of away"}
    models = ["base", "good", "away"]
    own, page = images(demo, asked(models))
    assert len(set(own.values())) == 3 and "Negative adapter" not in page
    none, page = images(demo, asked([*models, "old"], "none"))
    assert none["away"] == own["good"] and none["base"] == own["base"] and none["good"] == own["good"]
    assert "Negative adapter: none" in page
    given, page = images(demo, asked(models, "of away"))
    assert given["good"] == given["away"] == own["away"] and given["base"] not in own.values()
    assert "Negative adapter: that of away" in page
    _, wall = images(demo, asked(["away"], "of away", wall=True))
    assert "Negative adapter: that of away" in wall


@pytest.mark.parametrize("models, negative, scale, words", [
    (["base", "away"], "", 1.0, "away is to be guided away from a negative adapter, for which there is no branch at "
     "guidance scale 1"),
    (["base"], "of away", 0.5, "at guidance scale 0.5"), (["base"], ["none"], 3.0, "There is no negative adapter"),
    (["base"], "../bad", 3.0, "There is no negative adapter &#39;../bad&#39; here"),
    (["base"], "of base", 3.0, "There is no negative adapter"),
    (["old"], "of away", 3.0, "old is a folder or a checkpoint, which takes no negative adapter")])
def test_what_cannot_be_shown_is_one_sentence_without_paths(demo, loras, models, negative, scale, words):
    said = [item for pair in stream(demo, asked(models, negative, scale), "s", "c") for item in pair
            if isinstance(item, str)]
    assert words in said[-1] and 'role="alert"' in said[-1] and str(loras[2].parent) not in said[-1]


def test_one_that_does_not_fit_another_model_is_one_sentence_without_paths(settings, loras, pipelines):
    demo = Demo(DemoSettings(**vars(settings) | {"models": settings.models | {"other": str(pipelines("sd3"))}}))
    said = [item for pair in stream(demo, asked(["other"], "of away"), "s", "c") for item in pair
            if isinstance(item, str)]
    assert "The negative adapter of away does not fit other" in said[-1] and str(loras[2].parent) not in said[-1]


def test_at_a_scale_without_two_branches_the_demo_does_not_start(settings, loras):
    with pytest.raises(UserError, match="away: negative adapter .*: at guidance scale 1 there is no unconditional "
                                        "branch for it; give --guidance-scale above 1"):
        Demo(DemoSettings(**vars(settings) | {"guidance_scale": 1.0}))
    sdxl, _, bad = loras
    with pytest.raises(UserError, match="takes so much of the model's LoRA off, and there is none"):
        Demo(DemoSettings(**vars(settings) | {"models": {"away": f"{sdxl}+negative:0.5:{bad}"}}))


def test_the_page_offers_names_alone_and_takes_no_path(demo, settings, loras):
    with TestClient(app_of(demo), base_url="http://127.0.0.1:7860") as client:
        [generate] = [function for function in demo.page.fns.values() if function.api_name == "generate"]
        assert [value for _, value in generate.inputs[-1].choices] == ["", "none", "of away"]
        config = json.dumps(client.get("/config").json())
        assert "that of away" in config and "+negative:" not in config and str(loras[2]) not in config
        right = [block.value for block in generate.inputs]
        body = {"fn_index": generate._id, "session_hash": "odd", "data": [*right[:-1], str(loras[2])]}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        told = client.get("/gradio_api/queue/data?session_hash=odd").text
        assert "not in the list of choices" in told and demo.model_worker._held == {}
    plain = Demo(DemoSettings(**vars(settings) | {"models": {"base": settings.models["base"]}}))
    app_of(plain)
    [generate] = [function for function in plain.page.fns.values() if function.api_name == "generate"]
    assert all(block.elem_id != "negative" for block in generate.inputs)


def test_pairs_to_vote_on_are_other_pairs_with_another_adapter(settings, loras):
    sdxl, good, bad = loras
    names = set()
    for source in (f"{sdxl}+{good}", f"{sdxl}+{good}+negative:{bad}", f"{sdxl}+{good}+negative:0.5:{bad}",
                   f"{sdxl}+{good}+negative:{good}"):
        plan = Demo(DemoSettings(**vars(settings) | {"models": {"base": sdxl, "other": source}})).recipe()
        names.add(plan.name_of(next(plan.matchups())))
    assert len(names) == 4


def test_one_model_in_memory_wears_both_adapters_by_turns(demo):
    worker, sources = ModelWorker("cpu", keep=1), demo.sources
    away_alone = sources["base"].away_from(sources["away"].negative.__class__(sources["away"].negative.lora))

    def look(source, strength=1.0):
        found = []
        list(worker.submit(lambda job: found.extend(worker.sample(job, source, "a cat face", [5], steps=2,
                                                                  guidance_scale=3.0, strength=strength))))
        return np.asarray(found[0], dtype=int)

    first = {name: look(sources[name]) for name in ("base", "good", "away")} | {"alone": look(away_alone)}
    for name in ("away", "base", "alone", "good", "alone", "away", "good", "base"):
        assert (look(away_alone if name == "alone" else sources[name]) == first[name]).all(), name
    assert (look(sources["away"], 0.0) == first["base"]).all() and (look(away_alone, 0.0) == first["base"]).all()
    assert (look(sources["away"], 0.5) != first["away"]).any()
    assert len({image.tobytes() for image in first.values()}) == 4 and len(worker._held) == 1
