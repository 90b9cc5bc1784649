"""One thread owns the models: turns, steps, cancelling, memory, and one base for many LoRAs."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.generators.test_export import trained
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.evaluation.sources import model_source
from visalign.generators.export.exporting import export
from visalign_demo.model_worker import BACKGROUND, ModelWorker, Step


@pytest.fixture(scope="module")
def model_worker():
    return ModelWorker("cpu", keep=1)


def done(model_worker, work, **how):
    return list(model_worker.submit(work, **how))


def test_people_go_before_the_background(model_worker):
    began, gate, order = threading.Event(), threading.Event(), []
    first = model_worker.submit(lambda job: (began.set(), gate.wait(10)))
    began.wait(10)
    jobs = [model_worker.submit(lambda job, name=name: order.append(name), urgency)
            for name, urgency in (("slow", BACKGROUND), ("quick", 0), ("later", 0))]
    gate.set()
    for job in [first, *jobs]:
        list(job)
    assert order == ["quick", "later", "slow"]


def test_the_background_makes_way_at_its_next_step(model_worker):
    steps, began = [], threading.Event()

    def slow(job):
        for i in range(10_000):
            job.tell(i)
            steps.append(i)
            began.set()
            threading.Event().wait(0.001)

    background = model_worker.submit(slow, BACKGROUND)
    began.wait(10)
    assert done(model_worker, lambda job: job.tell("mine")) == ["mine"]
    list(background)
    assert len(steps) < 10_000


def test_who_stops_listening_ends_the_work(model_worker):
    seen, job = [], model_worker.submit(lambda job: [seen.append(job.tell(i)) for i in range(100_000)])
    for news in job:
        if news == 3:
            break
    job.__iter__().close()
    assert done(model_worker, lambda job: job.tell("next")) == ["next"] and len(seen) < 100_000


def test_errors_reach_the_listener_and_the_studio_lives_on(model_worker):
    def fail(job):
        raise UserError("no such thing")

    with pytest.raises(UserError, match="no such thing"):
        done(model_worker, fail)
    with pytest.raises(ZeroDivisionError):
        done(model_worker, lambda job: 1 / 0)
    assert done(model_worker, lambda job: job.tell(1)) == [1]


def test_only_so_many_may_wait():
    model_worker, gate, began = ModelWorker("cpu", most_waiting=2), threading.Event(), threading.Event()
    model_worker.submit(lambda job: (began.set(), gate.wait(10)))
    began.wait(10)
    jobs = [model_worker.submit(lambda job: None) for _ in range(2)]
    with pytest.raises(UserError, match="2 requests are waiting already"):
        model_worker.submit(lambda job: None)
    gate.set()
    for job in jobs:
        list(job)
    done(model_worker, lambda job: None)


def look(model_worker, source, strength=1.0):
    found = []
    news = done(model_worker, lambda job: found.extend(model_worker.sample(job, source, "a cat face", [5], steps=3,
                                                               guidance_scale=2.0, strength=strength)))
    assert [(n.done, n.steps) for n in news if isinstance(n, Step)] == [(1, 3), (2, 3), (3, 3)]
    return np.asarray(found[0], dtype=int)


def test_loras_of_one_model_share_it_and_strength_0_is_the_base(model_worker, recipe, pipelines, tmp_path):
    loras = {}
    for name in ("one", "two"):
        torch.manual_seed(len(loras))
        config, generator = trained(recipe, "sd3", "lora")
        export(generator, tmp_path / name, config, {})
        loras[name] = model_source(name, config.model, tmp_path / name)
    base = model_source("base", config.model)
    plain, one = look(model_worker, base), look(model_worker, loras["one"])
    held = next(iter(model_worker._held.values())).generator
    two, half, none = look(model_worker, loras["two"]), look(model_worker, loras["one"], 0.5), look(model_worker,
                                                                                                    loras["one"], 0.0)
    assert len(model_worker._held) == 1 and next(iter(model_worker._held.values())).generator is held
    assert (look(model_worker, base) == plain).all() and (none == plain).all()
    assert (look(model_worker, loras["one"]) == one).all() and (look(model_worker, loras["two"]) == two).all()
    assert (one != two).any() and 0 < np.abs(half - plain).mean() < np.abs(one - plain).mean()


def test_memory_that_does_not_suffice_is_one_sentence_and_frees_the_models(model_worker, pipelines, monkeypatch):
    source = model_source("big", ModelSettings(source=str(pipelines("sd3")), prompt_tokens=8))
    generator = []
    done(model_worker, lambda job: generator.append(model_worker.generator(source)))

    def sample(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(generator[0]), "sample", sample)
    with pytest.raises(UserError, match="big: memory did not suffice for 2 samples at once"):
        done(model_worker, lambda job: model_worker.sample(job, source, "a cat face", [1, 2], steps=2,
                                                           guidance_scale=1.0))
    assert not model_worker._held
    monkeypatch.undo()
    assert look(model_worker, source).shape == (16, 16, 3)


def test_no_more_models_are_held_than_allowed(model_worker, pipelines):
    for name in ("sd3", "sd15"):
        look(model_worker, model_source(name, ModelSettings(source=str(pipelines(name)), prompt_tokens=8)))
    assert len(model_worker._held) == 1 and str(Path(pipelines("sd15"))) in next(iter(model_worker._held))
