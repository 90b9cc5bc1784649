"""Trackers: what they are told and shown, a run of theirs that goes on, and one that fails."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from PIL import Image

from visalign.config.common import OutputSettings, Settings
from visalign.errors import UserError, notice
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.media.answers import Answer
from visalign.media.samples import Sample, Video
from visalign.storage.run_folder import RunFolder
from visalign.trainers import tracking
from visalign.trainers.tracking import (
    MOST_SHOWN,
    SafeTracker,
    check_trackers,
    keep_results,
    show_held_out,
    tracked,
)

from .commands import fails, run
from .test_base import build, follow  # noqa: F401  a fixture


class Plain(Settings):
    output: OutputSettings = OutputSettings()
    numbers: tuple[int, ...] = (1, 2)


class Noted(GeneralTracker):
    """A tracker that notes what it is told; `broken` names the verbs that fail."""

    name, requires_logging_directory, tracker, broken = "tensorboard", False, None, ()

    def __init__(self, run=None, run_id=None):
        super().__init__(_blank=True)
        self.given, self.run_id, self.told = run_id, run_id or "abc", []

    def _note(self, verb, *what):
        self.told.append((verb, *what))
        if verb in self.broken:
            raise ConnectionError("nobody\nanswers")

    def start(self):
        self._note("start")

    def store_init_configuration(self, values):
        self._note("settings", values)

    def log(self, values, step=None, **kwargs):
        self._note("log", values, step)

    def show(self, group, exhibits, step):
        self._note("show", group, exhibits, step)

    def keep(self, files, figures):
        self._note("keep", files, figures)

    def finish(self):
        self._note("finish")


FOUND = PromptMetrics(("a", "b"), 1, {"reward/sharp": [1.0, 3.0]}, {})


def test_a_run_of_a_tracker_goes_on_and_is_told_its_settings_once(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Noted)
    for resume in (False, True):
        folder, accelerator = RunFolder(tmp_path / "run", Plain(), resume), SimpleNamespace()
        with pytest.raises(KeyError), tracked(accelerator, ["wandb"], Plain(), folder):
            inner = accelerator.trackers[0].inner
            raise KeyError
        assert inner.given == ("abc" if resume else None) and inner.told[-1] == ("finish",)
        settings = [what for verb, *what in inner.told if verb == "settings"]
        assert bool(settings) is not resume
        if settings:
            assert settings[0][0]["numbers"] == "[1, 2]" and settings[0][0]["output.keep_checkpoints"] == 2
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"wandb": "abc"}


def test_other_processes_have_none(tmp_path):
    accelerator = SimpleNamespace()
    with tracked(accelerator, ["tensorboard"], Plain(), RunFolder(tmp_path / "run", Plain(), is_main=False)):
        assert accelerator.trackers == []


def test_a_tracker_that_dies_while_training_is_told_of_once_and_the_run_goes_on(build, tmp_path, capsys):  # noqa: F811
    class Dying(Noted):
        broken = ("log",)

    notice.cache_clear()
    trainer, inner = build("run"), Dying()
    trainer.accelerator.trackers = [SafeTracker(inner)]
    assert not follow(trainer)
    said = capsys.readouterr().err
    assert said.count("output.trackers tensorboard: failed (ConnectionError: nobody answers)") == 1
    assert len(inner.told) == 1 and trainer.state.step == 6


def test_what_cannot_be_used_is_one_sentence_before_a_model_is_loaded(tmp_path, monkeypatch):
    class Unreachable(Noted):
        broken = ("start",)

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Unreachable)
    with (pytest.raises(UserError, match=r"^output.trackers mlflow: could not be opened \(ConnectionError: nobody"),
          tracked(SimpleNamespace(), ["mlflow"], Plain(), RunFolder(tmp_path / "run", Plain()))):
        pass
    for missing in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name, found=missing: found)
        with pytest.raises(UserError, match=r"mlflow needs the package mlflow: pip install 'visalign\[trackers\]'$"):
            check_trackers(["mlflow"])


def test_an_unknown_tracker_is_answered_with_those_there_are(recipe):
    assert "mlflow" in fails(recipe("sd3"), "output.trackers=[mlfow]")


def test_samples_are_few_small_and_every_prompts_first_before_its_second():
    samples = [Sample(f"prompt {i}", Image.new("RGB", (2000, 1000), (i, j, 0))) for i in range(10) for j in range(2)]
    inner = Noted()
    accelerator = SimpleNamespace(trackers=[SafeTracker(inner)], log=lambda values, step: inner.log(values, step))
    show_held_out(accelerator, FOUND, samples, 7)
    (_, values, _), (_, group, shown, step) = inner.told
    assert values == {"held_out/reward/sharp": 2.0} and (group, step) == ("samples", 7)
    names = [each.name for each in shown]
    assert len(names) == MOST_SHOWN and names == sorted(names)
    assert sum(name.endswith("-0") for name in names) == 10 and names[:2] == ["000-0", "000-1"]
    assert shown[0].caption == "prompt 0" and {each.media.size for each in shown} == {(512, 256)}


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


def test_tensorboard_holds_curves_samples_rollouts_and_the_verdict(online_recipe, tmp_path):
    file = online_recipe("sd3", "grpo", output={"trackers": ["tensorboard"]}, train={"epochs": 1})
    run(file)
    run(file, "train.epochs=2", "--resume")
    found = events(tmp_path / "run" / "logs")
    images = {tag: [image.step for image in found.Images(tag)] for tag in found.Tags()["images"]}
    assert images.keys() == {f"samples/00{i}-{j}" for i in range(2) for j in range(2)} | {"rollouts/own"}
    assert set(images["samples/001-1"]) == {0, 1, 2} and set(images["rollouts/own"]) == {1, 2}
    first, last = found.Images("samples/000-0")[0], found.Images("samples/000-0")[-1]
    assert (first.width, first.height) == (last.width, last.height)
    assert {"reward", "held_out/reward/colourfulness", "held_out/diversity/distance"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("reward")] == [1, 2]
    assert "verdict/text_summary" in found.Tags()["tensors"]
    assert len(list((tmp_path / "run" / "logs").glob("*/hparams.yml"))) == 1
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["word"] and verdict["proxy"] == "colourfulness"


def test_answers_are_told_as_text(tmp_path):
    with tracked(accelerator := SimpleNamespace(), ["tensorboard"], Plain(), RunFolder(tmp_path / "run", Plain())):
        accelerator.log = accelerator.trackers[0].log
        show_held_out(accelerator, FOUND, [Sample("a", Answer("because <b>")), Sample("b", Answer(""))], 3)
        assert not accelerator.trackers[0].lost
        accelerator.trackers[0].finish()
    [told] = events(tmp_path / "run" / "logs").Tensors("samples/text_summary")
    assert told.step == 3 and b"because <b>" in told.tensor_proto.string_val[0]


def told_whole(names, path):
    """Two sessions of one run that tell trackers everything there is to tell."""
    ids = []
    video = Video([Image.fromarray(np.full((16, 24, 3), 40 * k, np.uint8)) for k in range(4)], 4.0)
    for step, resume in enumerate((False, True)):
        folder, accelerator = RunFolder(path, Plain(), resume), SimpleNamespace()
        with tracked(accelerator, names, Plain(), folder):
            accelerator.log = accelerator.trackers[0].log
            show_held_out(accelerator, FOUND, [Sample("a", Image.new("RGB", (8, 8))), Sample("b", video)], step)
            (path / "report.html").write_text("<p>a report</p>")
            keep_results(accelerator, folder, ("report.html", "absent.png"), {"verdict": "improved"})
            for tracker in accelerator.trackers:
                tracker.finish()
                assert not tracker.lost
                ids.append(tracker.inner.run_id)
    assert len(set(ids)) == 1
    return ids[0]


def test_wandb_is_told_everything_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    told_whole(["wandb"], tmp_path / "run")
    kept = [file for file in (tmp_path / "run" / "wandb").rglob("files/media/*/samples_*")]
    assert sorted(file.suffix for file in kept) == [".mp4", ".mp4", ".png", ".png"]


def test_mlflow_is_told_everything_in_a_local_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/store.db")
    run_id = told_whole(["mlflow"], tmp_path / "run")
    told = mlflow.MlflowClient().get_run(run_id)
    assert told.data.params["output.keep_checkpoints"] == "2" and told.data.tags["verdict"] == "improved"
    assert told.data.metrics == {"held_out/reward/sharp": 2.0}
    kept = {file.name for file in tmp_path.glob("mlruns/*/*/artifacts/**/*") if file.is_file()}
    assert {"report.html", "001-0.mp4"} <= kept and sum(name.startswith("samples~000-0") for name in kept) >= 2
