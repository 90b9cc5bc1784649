"""Samples from workers: exactly once whatever dies, and the same weights as without workers, killed or not."""

import contextlib
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from visalign.config import OnlineConfig
from visalign.config.load import load_config
from visalign.config.online import RolloutActorSettings
from visalign.errors import UserError
from visalign.trainers.online import sources
from visalign.trainers.online.ahead.crew import Crew, Gone
from visalign.trainers.online.ahead.packing import Complaint, DrawnBatch, Ready
from visalign.trainers.online.ahead.pool import RayPool, first_sentence, gpus_beside
from visalign.trainers.online.ahead.schedule import Batch, Schedule, begun_with, drawn_with
from visalign.trainers.online.ahead.source import RolloutsAhead
from visalign.trainers.online.ahead.worker import RolloutWorker

from ..commands import UNMEASURED, fails, rows, run, weights


@pytest.mark.parametrize("staleness, versions, begun", [
    (0, [0, 1, 2, 3], [[0], [1], [2], [3]]), (1, [0, 0, 1, 2], [[0, 1], [1, 2], [2, 3], [3]]),
    (2, [0, 0, 0, 1], [[0, 1, 2], [1, 2, 3], [2, 3], [3]])])
def test_an_epoch_is_drawn_with_what_was_learnt_so_many_epochs_before(staleness, versions, begun):
    assert [drawn_with(epoch, staleness) for epoch in range(4)] == versions
    assert [list(begun_with(epoch, staleness, 4)) for epoch in range(4)] == begun
    for epoch in range(4):  # no epoch is begun before its weights are there
        assert all(drawn_with(each, staleness) <= epoch for each in begun[epoch])


def test_a_lost_worker_s_batch_goes_to_another_first_and_every_batch_counts_once():
    schedule = Schedule(losses=1)
    for worker in (0, 1):
        schedule.start(worker, 0.0)
    schedule.begin(4, 3, version=3)
    schedule.begin(4, 3, version=4)  # it has been begun
    assert schedule.give(1.0) == []  # nobody is ready
    for worker in (0, 1):
        schedule.ready(worker, "here")
    assert schedule.give(1.0) == [(0, Batch(4, 0), 3), (1, Batch(4, 1), 3)]
    assert not schedule.done(1, version=4, result="of other weights")
    assert schedule.late(12.0, 10.0) == [0, 1]
    schedule.lose(0, "died")
    assert schedule.done(1, version=3, result="b") and not schedule.done(1, version=3, result="again")
    assert schedule.give(2.0) == [(1, Batch(4, 0), 3)] and schedule.take(4) is None
    schedule.done(1, 3, "a")
    schedule.give(3.0)
    schedule.done(1, 3, "c")
    assert schedule.take(4) == ["a", "b", "c"] and schedule.give(4.0) == []
    with pytest.raises(UserError, match="rollout.ray.replacements 1: 2 actors were lost, the last one since actor 2 on "
                                        "here froze"):
        schedule.lose(1, "froze")


class Scripted:
    """A pool whose workers answer what a test says."""

    def __init__(self, *answers):
        self.answers, self.asked, self.dropped = list(answers), [], []

    open = contextlib.nullcontext

    def start(self, worker):
        self.asked.append((worker, Ready("there", "same")))

    def send(self, worker, request, version):
        self.asked.append((worker, self.answers.pop(0) if self.answers else drawn(version)))

    def hear(self, seconds):
        heard, self.asked = [each for each in self.asked if each[1] is not None], [
            each for each in self.asked if each[1] is None]
        return heard

    def drop(self, worker):
        self.dropped.append(worker)
        self.asked = [each for each in self.asked if each[0] != worker]

    publish = forget = lambda *arguments: None


def drawn(version):
    return DrawnBatch(version, b"", None, [], {}, {})


def answers_of(pool, clock=lambda: 0.0, **settings):
    crew = Crew(pool, RolloutActorSettings(**settings), lambda: "same", clock)
    with crew.working():
        crew.begin(0, [SimpleNamespace()] * 3, 0, b"")
        return crew.take(0, lambda count: None)


def test_what_dies_or_answers_with_other_weights_is_replaced():
    pool = Scripted(Gone("died"), drawn(7))
    assert len(answers_of(pool)) == 3 and len(pool.dropped) == 2


def test_a_worker_s_own_sentence_ends_the_run_and_names_it():
    with pytest.raises(UserError, match="^reward x: failed \\(rollout actor 1 on there\\)$"):
        answers_of(Scripted(Complaint("reward x: failed")), actors=1)
    with pytest.raises(UserError, match="has other frozen weights or other versions of packages than the learner"):
        pool = Scripted()
        pool.start = lambda worker: pool.asked.append((worker, Ready("there", "other")))
        answers_of(pool)


def test_nobody_waits_for_a_worker_that_stands_still():
    times = iter(range(0, 10_000_000, 60))
    with pytest.raises(UserError, match="actor 1 on there has not drawn its batch within rollout.ray.wait_minutes 5"):
        answers_of(Scripted(*[None] * 9), clock=lambda: next(times), actors=1, wait_minutes=5, replacements=1)


class Here:
    """Workers in this process, the `dies`-th batch of which is lost with its worker."""

    def __init__(self, config, dies=0):
        self.config, self.dies, self.workers, self.asked, self.published, self.sent = config, dies, {}, [], {}, 0

    open = contextlib.nullcontext

    def start(self, worker):
        self.workers[worker] = RolloutWorker(self.config, ".", torch.get_num_threads())
        self.asked.append((worker, self.workers[worker].prepare))

    def publish(self, version, content):
        self.published.setdefault(version, content)

    def forget(self, before):
        self.published = {version: each for version, each in self.published.items() if version >= before}

    def send(self, worker, request, version):
        self.sent += 1
        work, content = self.workers[worker].sample, self.published[version]
        dies = self.sent == self.dies
        self.asked.append((worker, lambda: Gone("died") if dies else work(request, version, lambda: content)))

    def hear(self, seconds):
        heard, self.asked = self.asked, []
        return [(worker, work()) for worker, work in heard]

    def drop(self, worker):
        del self.workers[worker]


def test_a_stale_run_that_is_continued_ends_with_the_same_bits(online_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "ray", lambda parts: RolloutsAhead(parts, Here(parts.config, dies=2)))
    file = online_recipe("sd3", "grpo", eval=UNMEASURED)
    told = ("--rollouts", "ray", "rollout.staleness=1", "rollout.ray.actors=1", "train.epochs=4", "optim.lr=0.01")
    run(file, *told, "output.checkpoint_every=2")
    whole = weights(tmp_path / "run", 4)
    trained = rows(tmp_path / "run")
    assert [row["staleness"] for row in trained] == [0, 1, 1, 1]
    assert trained[0]["ratio"] == pytest.approx(1, abs=1e-6) and abs(trained[2]["ratio_std"]) > 1e-5
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run(file, *told, "--resume")
    continued = weights(tmp_path / "run", 4)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4]
    assert len(rows(tmp_path / "run", "self_check")) == 1  # a continued run's first samples are of older weights


def test_workers_tell_kinds_apart_and_shorten_what_follows_the_window_as_the_learner_would(online_recipe, tmp_path,
                                                                                           monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "ray", lambda parts: RolloutsAhead(parts, Here(parts.config)))
    file = online_recipe("sd3", "grpo", eval=UNMEASURED, advantage={"rarity": 0.3, "kinds": 2},
                         reward={"features": "tiny-clip"}, rollout={
                             "window": {"size": 1, "schedule": "progressive", "last": 0}, "tail": {"ratio": 0.5}})
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'alone'}")
    run(file, "--rollouts", "ray", "train.epochs=2", "rollout.ray.actors=1")
    alone, apart = weights(tmp_path / "alone", 2), weights(tmp_path / "run", 2)
    assert all(torch.equal(alone[name], apart[name]) for name in alone)
    for folder in ("alone", "run"):
        assert [row["kinds"] for row in rows(tmp_path / folder)] == [2, 2]


class Killing(RayPool):
    """Ends the actor that is given the second batch while it draws it."""

    places, sent, killed = {}, 0, []

    def hear(self, seconds):
        heard = super().hear(seconds)
        self.places |= {worker: answer.place for worker, answer in heard if isinstance(answer, Ready)}
        return heard

    def send(self, worker, request, version):
        super().send(worker, request, version)
        self.sent += 1
        if self.sent == 2:
            self.killed.append(self.places[worker])
            os.kill(int(self.places[worker].split()[-1]), signal.SIGKILL)


def test_actors_draw_what_the_learner_would_have_drawn_though_one_is_killed(online_recipe, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setitem(sources.SOURCES, "ray", lambda parts: RolloutsAhead(parts, Killing(parts.config, "cpu")))
    file = online_recipe("sd3", "grpo", eval=UNMEASURED)
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'alone'}")
    run(file, "--rollouts", "ray", "train.epochs=2", "rollout.ray.store_gib=0.1")
    assert len(Killing.killed) == 1
    alone, apart = weights(tmp_path / "alone", 2), weights(tmp_path / "run", 2)
    assert all(torch.equal(alone[name], apart[name]) for name in alone)
    for a, b in zip(rows(tmp_path / "alone"), rows(tmp_path / "run"), strict=True):
        assert a["reward"] == b["reward"] and a["passes/without gradient"] == b["passes/without gradient"]
    assert (tmp_path / "run" / "rollouts" / "epoch-000001.png").exists()


def test_what_cannot_be_apart_is_refused(online_recipe, monkeypatch):
    ode = {"rollout": {"sampler": "ode"}}
    assert "rollout.staleness 1: one process samples with what it has learnt" in fails(
        online_recipe(), "rollout.staleness=1")
    monkeypatch.setattr("visalign.jobs.training_setup.check_ray", lambda setting: None)
    assert "objective.name nft cannot learn from an earlier policy's samples, since it compares" in fails(
        online_recipe("sd3", "nft", **ode), "--rollouts", "ray", "rollout.staleness=1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "rollout.engine ray: one process learns while actors sample; start it without torchrun" in fails(
        online_recipe(), "--rollouts", "ray")


def test_a_full_object_store_and_the_learner_s_gpu(online_recipe, monkeypatch):
    exceptions = pytest.importorskip("ray.exceptions")

    def put(weights):
        raise exceptions.ObjectStoreFullError("The local object store is full. And more.")

    pool = RayPool(load_config(online_recipe(), (), OnlineConfig), "cpu")
    pool.ray = SimpleNamespace(put=put, exceptions=exceptions)
    with pytest.raises(UserError, match="rollout.ray.store_gib: 2 MiB of weights could not be laid out for the actors"):
        pool.publish(0, bytes(2**21))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert gpus_beside("cuda") == "5,6" and gpus_beside("cpu") is None


def test_why_an_actor_died_is_one_line():
    dead = "The actor died because of an error raised in its creation task\nTraceback\nModuleNotFoundError: No module"
    assert first_sentence(RuntimeError(dead)) == "ModuleNotFoundError: No module"
    assert first_sentence(RuntimeError("The node died. More of it.\n\tid: 1")) == "The node died"
