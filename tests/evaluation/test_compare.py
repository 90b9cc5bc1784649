"""`visalign evaluate` and `visalign compare` as a user runs them."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main

from ..jobs.generations import write_folder
from ..trainers.commands import run


@pytest.fixture(autouse=True)
def cache(tmp_path):
    return tmp_path / "features.sqlite"


@pytest.fixture
def invoke(cache):
    def call(*arguments):
        extra = () if "--cache" in arguments else ("--cache", cache)
        return CliRunner().invoke(main, [*map(str, arguments), *map(str, extra)])

    return call


def results(out):
    return json.loads((out / "results.json").read_text())


def test_a_collapsed_model_is_called_so_with_its_evidence(invoke, tmp_path):
    base, flat = write_folder(tmp_path / "base", 12), write_folder(tmp_path / "flat", 12, kinds=1)
    out = tmp_path / "out"
    done = invoke("compare", f"base={base}", f"flat={flat}", "-r", "contrast,saturation", "-o", out)
    assert done.exit_code == 0, done.output
    assert "contrast, the first reward, was taken for the optimised one" in done.output
    assert "flat: collapsed" in done.output and "diversity within a prompt fell by" in done.output
    found = results(out)
    assert found["verdicts"]["flat"]["word"] == "collapsed" and found["verdicts"]["flat"]["proxy"] == "contrast"
    vendi = {name: found["figures"][name]["diversity/vendi"]["value"] for name in ("flat", "base")}
    assert vendi["flat"] < 0.6 * vendi["base"]
    assert found["figures"]["flat"]["against the base/recall"]["value"] < 1
    table = pq.read_table(out / "results.parquet").to_pylist()
    assert set(table[0]) == {"model", "metric", "prompt", "value", "low", "high", "n"}
    per_prompt = [row["value"] for row in table if row["model"] == "flat" and row["metric"] == "diversity/vendi"
                  and row["prompt"]]
    assert len(per_prompt) == 12
    assert np.mean(per_prompt) == pytest.approx(found["figures"]["flat"]["diversity/vendi"]["value"])
    assert (out / "report.html").stat().st_size > 10_000


def test_the_same_model_twice_is_healthy_and_wins_half(invoke, tmp_path):
    base = write_folder(tmp_path / "base")
    assert invoke("compare", f"a={base}", f"b={base}", "-r", "contrast", "-o", tmp_path / "out").exit_code == 0
    found = results(tmp_path / "out")
    assert found["verdicts"]["b"]["word"] == "healthy"
    assert found["wins"]["contrast"]["b"]["share"]["value"] == 0.5 and found["wins"]["contrast"]["b"]["p_value"] == 1
    assert found["ladders"]["contrast"]["a"]["value"] == pytest.approx(1000)


def test_one_folder_alone_has_numbers_and_no_verdict(invoke, tmp_path):
    base = write_folder(tmp_path / "base")
    done = invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "out")
    assert done.exit_code == 0 and "diversity/vendi" in done.output
    assert results(tmp_path / "out")["verdicts"] == {}


def test_a_reference_set_gives_fidelity_and_style_coverage(invoke, tmp_path):
    base = write_folder(tmp_path / "base")
    done = invoke("evaluate", base, "-r", "contrast", "--reference", write_folder(tmp_path / "real", 8), "-o",
                  tmp_path / "out")
    assert done.exit_code == 0, done.output
    figures = results(tmp_path / "out")["figures"]["base"]
    assert {f"against the references/{name}" for name in ("precision", "KID", "ASC")} <= set(figures)
    assert "FID needs at least 2,000 samples on either side, there are 32 and 24" in done.output


def test_features_are_computed_once(invoke, tmp_path, monkeypatch):
    from visalign.rewards.clip import ClipScore

    base = write_folder(tmp_path / "base")
    counted = []
    real = ClipScore.features
    monkeypatch.setattr(ClipScore, "features", lambda self, images: counted.append(len(images)) or real(self, images))
    assert invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "one").exit_code == 0
    first = sum(counted)
    assert invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "two").exit_code == 0
    assert first == 24 and sum(counted) == first
    Image.new("RGB", (64, 64), "red").save(base / "000-00.png")
    assert invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "three").exit_code == 0
    assert sum(counted) == first + 1
    one, two = (results(tmp_path / name)["figures"] for name in ("one", "two"))
    assert one == two


def test_awkward_sets_are_compared_as_far_as_they_go_and_noted(invoke, tmp_path):
    base, other = write_folder(tmp_path / "base"), write_folder(tmp_path / "other", prompts=5, seeds=3)
    (other / "000-01.png").write_bytes((other / "000-00.png").read_bytes())
    done = invoke("compare", f"base={base}", f"other={other}", "-r", "contrast", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for note in ("1 of 6 prompts were left out", "5 generations were left out",
                 "other: 1 of 15 generations are the same file"):
        assert note in done.output
    unseeded = write_folder(tmp_path / "unseeded", with_seeds=False)
    done = invoke("compare", f"base={base}", f"unseeded={unseeded}", "-r", "contrast", "-o", tmp_path / "out2")
    assert done.exit_code == 0 and "matched in the order of their names" in done.output
    single = write_folder(tmp_path / "single", seeds=1)
    done = invoke("compare", f"base={base}", f"single={single}", "-r", "contrast", "-o", tmp_path / "out3")
    assert done.exit_code == 0 and "diversity within a prompt is undefined" in done.output
    assert results(tmp_path / "out3")["verdicts"]["single"]["diversity"] is None


def test_a_ladder_that_falls_apart_says_so_in_the_page(invoke, tmp_path):
    base, dark = write_folder(tmp_path / "base"), write_folder(tmp_path / "dark", brightness=0.3)
    assert invoke("compare", f"base={base}", f"dark={dark}", "-r", "contrast", "-o", tmp_path / "out").exit_code == 0
    assert "no ranking" in results(tmp_path / "out")["ladders"]["contrast"]
    assert "no ranking" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_wrong_is_one_sentence_before_anything_is_measured(invoke, tmp_path):
    base = write_folder(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    cases = [
        (("compare", f"base={base}"), "name at least two models"),
        (("compare", f"base={base}", str(base)), "expected NAME=SOURCE"),
        (("compare", f"base={base}", f"base={base}"), "base is named twice"),
        (("compare", f"base={base}", f"x={tmp_path / 'no'}"), "no such folder"),
        (("compare", f"base={base}", f"x={tmp_path / 'empty'}"), "holds no image"),
        (("evaluate", base, "-r", "contrasst"), "did you mean 'contrast'"),
        (("evaluate", base, "-r", "contrast", "--proxy", "saturation"), "proxy saturation: names no reward"),
        (("evaluate", base, "-r", "contrast", "--features", "contrast"), "features contrast: is no open_clip model"),
        (("evaluate", base, "-r", "contrast", "--lpips", "none.pth"), "lpips none.pth: there is no such file"),
        (("evaluate", base, "-r", "contrast", "--checkpoints", "all"), "needs the folder of a run"),
        (("evaluate", "tiny-sd3", "-r", "contrast"), "give --prompts"),
        (("evaluate", base, "-r", "contrast", "--cache", base / "000-00.png"), "cannot be used as a cache"),
    ]
    for arguments, message in cases:
        done = invoke(*arguments, "-o", tmp_path / "out")
        assert done.exit_code == 1 and message in done.output and "Traceback" not in done.output, done.output
    (base / "002-01.png").write_bytes(b"no image")
    done = invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "base: 002-01.png" in done.output
    assert not (tmp_path / "out" / "report.html").exists()


def test_features_that_are_not_finite_name_the_file(invoke, tmp_path, monkeypatch):
    from visalign.rewards.clip import ClipScore

    monkeypatch.setattr(ClipScore, "features", lambda self, images: torch.full((len(images), 4), math.nan))
    done = invoke("evaluate", write_folder(tmp_path / "base"), "-r", "contrast", "-o", tmp_path / "out")
    assert done.exit_code == 1 and "features of 24 files are not finite, the first of 000-00.png" in done.output


def test_results_are_not_overwritten(invoke, tmp_path):
    base = write_folder(tmp_path / "base")
    assert invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "out").exit_code == 0
    assert "already holds results" in invoke("evaluate", base, "-r", "contrast", "-o", tmp_path / "out").output


OPTIONS = ("--samples-per-prompt", 2, "--max-prompts", 2, "-r", "contrast,saturation", "--steps", 2,
           "--guidance-scale", 1)


@pytest.mark.parametrize("kind", ["recipe", "online_recipe"])
def test_a_run_is_compared_with_its_untrained_model_and_along_its_checkpoints(kind, request, invoke, tmp_path):
    write = request.getfixturevalue(kind)
    length = {"steps": 3} if kind == "recipe" else {"epochs": 3}
    file = write(output={"checkpoint_every": 1, "keep_checkpoints": 0}, optim={"lr": 0.01, "ema_decay": 0.5},
                 train=length)
    assert run(file).exit_code == 0
    folder = tmp_path / "run"
    done = invoke("evaluate", folder, *OPTIONS, "-o", tmp_path / "last")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "last")
    assert found["models"] == ["base", "aligned"] and found["seeds"] == 2 and len(found["prompts"]) == 2
    assert ("likelihood of held-out pairs/displaced" in found["figures"]["aligned"]) == (kind == "recipe")
    done = invoke("evaluate", folder, "--checkpoints", "all", "--gold", "saturation", "--proxy", "contrast", *OPTIONS,
                  "-o", tmp_path / "all")
    assert done.exit_code == 0, done.output
    assert "note: saturation has no peak" in done.output or "advantage.thresholds={contrast: " in done.output
    for wrong, words in (((), "give --checkpoints all"), (("--checkpoints", "all", "--proxy", "saturation"),
                                                         "was optimised"),
                         (("--strengths", "0:1:2"), "leave one out")):
        refused = invoke("evaluate", folder, "--gold", "saturation", *wrong, *OPTIONS, "-o", tmp_path / "no")
        assert refused.exit_code == 1 and words in refused.output
    refused = invoke("evaluate", folder, "--gold", "satration", "--checkpoints", "all", *OPTIONS, "-o", tmp_path / "no")
    assert refused.exit_code == 1 and "names no reward" in refused.output and "saturation" in refused.output
    found = results(tmp_path / "all")
    assert found["models"] == ["base", "step 1", "step 2", "step 3"]
    assert found["curve"]["steps"] == [1, 2, 3] and all(kl > 0 for kl in found["curve"]["kl"])
    assert set(found["curve"]["fits"]["contrast"]) == {"rl", "bon"}
    assert found["best_of"]["contrast"]["2"]["value"] > 0
    one = invoke("evaluate", folder / "checkpoints" / "step-00000003", *OPTIONS, "-o", tmp_path / "one")
    assert one.exit_code == 0, one.output
    last, same = ({row["prompt"]: row["value"] for row in pq.read_table(tmp_path / name / "results.parquet").to_pylist()
                   if row["model"] == "aligned" and row["metric"] == "reward/contrast"} for name in ("last", "one"))
    assert last == pytest.approx(same, rel=1e-3)  # the export and the last checkpoint are the same weights


def test_a_plain_model_is_loaded_as_the_run_it_is_compared_with(recipe, pipelines, invoke, tmp_path):
    assert run(recipe(train={"steps": 1})).exit_code == 0
    done = invoke("compare", f"base={pipelines('sd3')}", f"aligned={tmp_path / 'run'}", *OPTIONS, "-o",
                  tmp_path / "out")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "generations" / "base" / "settings.json").read_text())
    assert settings["model"]["prompt_tokens"] == 8 and settings["model"]["precision"] == "fp32"


def test_a_lora_is_named_after_its_model(recipe, pipelines, invoke, tmp_path):
    assert run(recipe(train={"steps": 1}, optim={"lr": 0.01})).exit_code == 0
    model, lora = pipelines("sd3"), tmp_path / "run" / "export"
    done = invoke("compare", f"run={tmp_path / 'run'}", f"lora={model}+{lora}", *OPTIONS, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    first, second = ((tmp_path / "out" / "generations" / name / "00000.png").read_bytes() for name in ("run", "lora"))
    assert first == second
    done = invoke("compare", f"base={model}", f"lora={model}+{tmp_path / 'gone'}", *OPTIONS, "-o", tmp_path / "out2")
    assert done.exit_code == 1 and "gone" in done.output


def test_results_go_to_a_folder_named_after_the_source(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("evaluate", write_folder(tmp_path / "base", 2), "-r", "contrast").exit_code == 0
    assert (tmp_path / "evaluations" / "base" / "report.html").exists()


def test_a_fully_fine_tuned_run_is_read_from_its_pipeline_and_its_checkpoint(recipe, invoke, tmp_path):
    file = recipe("sd15", model={"tuning": "full"}, train={"steps": 1}, optim={"lr": 0.01},
                  output={"checkpoint_every": 1})
    assert run(file).exit_code == 0
    for name, source in (("run", tmp_path / "run"), ("one", tmp_path / "run" / "checkpoints" / "step-00000001")):
        done = invoke("evaluate", source, *OPTIONS, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
    first, second = (results(tmp_path / name)["figures"]["aligned"]["reward/contrast"]["value"]
                     for name in ("run", "one"))
    assert first == pytest.approx(second, rel=1e-3)


def test_an_unfinished_run_has_no_end_to_evaluate(recipe, invoke, tmp_path):
    assert run(recipe(train={"steps": 1}, output={"checkpoint_every": 1})).exit_code == 0
    shutil.rmtree(tmp_path / "run" / "export")
    assert "has not finished" in invoke("evaluate", tmp_path / "run", *OPTIONS, "-o", tmp_path / "out").output
    (tmp_path / "run" / "checkpoints" / "step-00000001" / "optimizer.pt").write_bytes(b"broken")
    done = invoke("evaluate", tmp_path / "run" / "checkpoints" / "step-00000001", *OPTIONS, "-o", tmp_path / "out2")
    assert done.exit_code == 1 and "is broken, optimizer.pt" in done.output


def test_a_killed_comparison_continues_and_other_settings_are_refused(invoke, pipelines, tmp_path):
    source = pipelines("sdxl")
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
    command = ("compare", f"base={source}", f"again={source}", "--prompts", tmp_path / "prompts.txt", *OPTIONS, "-o",
               tmp_path / "out")
    assert invoke(*command).exit_code == 0
    for name in ("results.json", "generations/again/samples.jsonl", "generations/again/00003.png"):
        (tmp_path / "out" / name).unlink()
    kept = (tmp_path / "out" / "generations" / "base" / "00002.png").stat().st_mtime_ns
    images = {file: file.read_bytes() for file in (tmp_path / "out").glob("generations/again/0*.png")}
    assert invoke(*command).exit_code == 0
    assert (tmp_path / "out" / "generations" / "base" / "00002.png").stat().st_mtime_ns == kept
    assert all(file.read_bytes() == content for file, content in images.items())
    (tmp_path / "out" / "results.json").unlink()
    other = invoke(*command, "--seed", 7)
    assert other.exit_code == 1 and "samples of other settings" in other.output


def test_videos_are_compared_too(invoke, tmp_path):
    from visalign.media.samples import Video
    from visalign.media.video_files import to_video_bytes

    for name, moving in (("base", True), ("still", False)):
        (tmp_path / name).mkdir()
        lines = []
        for p in range(3):
            for k in range(3):
                frames = []
                for t in range(6):
                    frame = np.full((32, 32, 3), 255, np.uint8)
                    x = (4 * t * (k + 1) if moving else 0) % 24
                    frame[8:16, x:x + 8] = (200, 60 * p, 30)
                    frames.append(Image.fromarray(frame))
                (tmp_path / name / f"{p}-{k}.mp4").write_bytes(to_video_bytes(Video(frames, 8.0)))
                lines.append(json.dumps({"prompt": f"clip {p}", "video": f"{p}-{k}.mp4", "seed": k}))
        (tmp_path / name / "samples.jsonl").write_text("\n".join(lines))
    done = invoke("compare", f"base={tmp_path / 'base'}", f"still={tmp_path / 'still'}", "-r", "motion", "-o",
                  tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "out")
    assert found["verdicts"]["still"]["word"] == "collapsed"
    assert found["figures"]["still"]["reward/motion"]["value"] < found["figures"]["base"]["reward/motion"]["value"]
    assert "image/webp" in (tmp_path / "out" / "report.html").read_text()
    photos = write_folder(tmp_path / "photos")
    mixed = invoke("evaluate", tmp_path / "base", "-r", "motion", "--reference", photos, "-o", tmp_path / "mixed")
    assert mixed.exit_code == 1 and "base and the reference: one holds images and the other videos" in mixed.output
