"""A source with a negative adapter: how it is written, what it is sampled as, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.families import load_tiny
from tests.generators.lora.random_lora import write_random_lora
from tests.jobs.generations import write_folder
from tests.trainers.commands import UNMEASURED, run
from visalign.cli import main
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.evaluation.source_words import SourceWords, parse_source
from visalign.evaluation.sources import source_of
from visalign.generators.files.embedded import MODEL_ASSETS
from visalign.sampling.folder import Negative


@pytest.fixture
def loras(pipelines, tmp_path):
    """The folder of the tiny SDXL and two random LoRAs for it."""
    sdxl = str(pipelines("sdxl"))
    generator = load_tiny(sdxl, "sdxl")
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
    return sdxl, *(write_random_lora(generator, tmp_path / name, seed) for seed, name in enumerate(("good", "bad")))


@pytest.fixture
def invoke(tmp_path):
    def call(verb, *words):
        return CliRunner().invoke(main, [verb, *map(str, words), "--steps", "2", "-r", "saturation", "--features",
                                         "tiny-clip", "--cache", str(tmp_path / "features.sqlite")])

    return call


def test_the_parts_of_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_source("tiny-sd3") == SourceWords("tiny-sd3", "tiny-sd3")
    assert parse_source("tiny-sd3+a/lora").lora == Path("a/lora") and parse_source("tiny-sd3+a/lora").negative is None
    aligned = MODEL_ASSETS / "tiny-sd3-aligned"
    assert parse_source("tiny-sd3-aligned") == SourceWords("tiny-sd3-aligned", "tiny-sd3", aligned)
    assert parse_source("tiny-sd3+tiny-sd3-aligned").lora == aligned
    assert parse_source("tiny-sd3-aligned+negative:runs/npo").negative == Negative(Path("runs/npo"))
    away = parse_source("org/model+a/lora+negative:runs/npo")
    assert (away.source, away.lora, away.negative) == ("org/model", Path("a/lora"), Negative(Path("runs/npo")))
    assert parse_source("tiny-sdxl+negative:0.5:runs/npo").negative == Negative(Path("runs/npo"), 0.5)
    assert parse_source("tiny-sdxl+negative:C:/npo").negative == Negative(Path("C:/npo"))
    assert parse_source("~/x+negative:~/npo").negative.lora == Path("~/npo").expanduser()
    for name in ("a+b", "a+negative:b", "a+b+c", "0.5:npo"):
        Path(name).mkdir()
    assert parse_source("a+b").source == "a+b" and parse_source("a+negative:b").source == "a+negative:b"
    assert parse_source("a+b+negative:x").source == "a+b" and parse_source("a+b+negative:x").lora is None
    assert parse_source("a+negative:0.5:npo").negative == Negative(Path("0.5:npo"))


@pytest.mark.parametrize("source, words", [
    ("tiny-sdxl+negative:", "expected SOURCE+negative:ADAPTER"), ("+negative:npo", "expected SOURCE+negative:ADAPTER"),
    ("tiny-sdxl+negative:a+negative:b", "with one ADAPTER"),
    ("tiny-sdxl+negative:1.5:npo", "the negative scale 1.5 must be at least 0 and at most 1"),
    ("tiny-sdxl+negative:nan:npo", "the negative scale nan must be at least 0 and at most 1"),
    ("tiny-sdxl+negative:0.5:", "names no adapter after the negative scale 0.5")])
def test_what_cannot_be_read_is_one_sentence(source, words):
    with pytest.raises(UserError) as caught:
        parse_source(source)
    assert str(caught.value).startswith(source) and words in str(caught.value)


def test_one_command_says_what_a_negative_adapter_does(loras, invoke, tmp_path):
    sdxl, good, bad = loras
    out = tmp_path / "out"
    named = {"plain": f"{sdxl}+{good}", "away": f"{sdxl}+{good}+negative:{bad}",
             "half": f"{sdxl}+{good}+negative:0.5:{bad}"}
    words = [*(f"{name}={source}" for name, source in named.items()), "--prompts", tmp_path / "prompts.txt",
             "--samples-per-prompt", 2, "--guidance-scale", 3, "--set", "precision=fp32", "--set", "prompt_tokens=8"]
    done = invoke("compare", *words, "-o", out)
    assert done.exit_code == 0, done.output
    assert json.loads((out / "results.json").read_text())["about"]["sources"] == named
    assert str(bad) in (out / "report.html").read_text()
    files = {name: sorted((out / "generations" / name).glob("0*.png")) for name in named}
    assert len({file.read_bytes() for each in files.values() for file in each}) == 12
    settings = {name: json.loads((out / "generations" / name / "settings.json").read_text()) for name in named}
    assert "negative adapter" not in settings["plain"]
    assert settings["half"]["negative adapter"] == str(bad) and settings["half"]["negative scale"] == 0.5

    made = CliRunner().invoke(main, ["generate", sdxl, f"@{tmp_path / 'prompts.txt'}", "--lora", str(good),
                                     "--negative-adapter", str(bad), "--guidance-scale", "3", "--steps", "2",
                                     "--samples-per-prompt", "2", "--precision", "fp32", "--set", "prompt_tokens=8",
                                     "-o", str(tmp_path / "made")])
    assert made.exit_code == 0, made.output
    assert [file.read_bytes() for file in sorted((tmp_path / "made").glob("0*.png"))] == \
        [(out / "generations" / "away" / f"{number:05d}.png").read_bytes() for number in range(4)]

    (out / "results.json").unlink()  # as a comparison that was killed before its end
    for other in (f"{sdxl}+{good}+negative:{good}", f"{sdxl}+{good}+negative:0.25:{bad}", f"{sdxl}+negative:{bad}"):
        done = invoke("compare", words[0], f"away={other}", *words[3:], "-o", out)
        assert done.exit_code == 1 and "generations/away: holds samples of other settings" in done.output, done.output
    weights = bad / "pytorch_lora_weights.safetensors"
    weights.write_bytes((good / weights.name).read_bytes())  # another adapter of the same name
    done = invoke("compare", *words, "-o", out)
    assert done.exit_code == 1 and "generations/away: holds samples of other settings" in done.output


def test_a_source_that_leads_away_is_evaluated_against_itself_without(recipe, loras, invoke, tmp_path):
    _, _, bad = loras
    folder = tmp_path / "run"
    run(recipe("sdxl", eval=UNMEASURED, train={"steps": 2}, optim={"lr": 0.05}))
    asked = ("--prompts", tmp_path / "prompts.txt", "--samples-per-prompt", 2)
    out = tmp_path / "out"
    done = invoke("evaluate", f"{folder}+negative:{bad}", *asked, "--guidance-scale", 3, "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "results.json").read_text())
    assert found["models"] == ["plain", "away"]
    assert found["about"]["sources"] == {"plain": str(folder), "away": f"{folder}+negative:{bad}"}
    settings = [json.loads((out / "generations" / name / "settings.json").read_text()) for name in found["models"]]
    assert settings[0].items() < settings[1].items() and settings[0]["adapter"] == str(folder / "export")
    away = source_of("away", f"{folder}+negative:{bad}").away_from(None)
    assert away.identity == source_of("plain", str(folder)).identity and away.negative is None

    checkpoint = folder / "checkpoints" / "step-00000002"
    assert checkpoint.is_dir()
    images = write_folder(tmp_path / "images")
    for source, words in ((checkpoint, "is a checkpoint; a negative adapter is for an image or video model"),
                          (images, "is generations that are there; a negative adapter is for")):
        done = invoke("evaluate", f"{source}+negative:{bad}", *asked, "--guidance-scale", 3, "-o", tmp_path / "no")
        assert done.exit_code == 1 and f"{source}+negative:{bad}: {source} {words}" in done.output, done.output
    done = invoke("evaluate", f"{folder}+negative:{bad}", "--checkpoints", "all", "-o", tmp_path / "no")
    assert done.exit_code == 1 and "--checkpoints all measures a run alone" in done.output
    done = invoke("evaluate", f"{folder}+negative:{bad}", *asked, "-o", tmp_path / "no")  # the run's own scale is 1
    assert done.exit_code == 1 and f"away: negative adapter {bad}: at guidance scale 1 there is no" in done.output
    assert not (tmp_path / "no").exists()


def test_what_does_not_fit_is_refused_before_a_model_is_loaded(loras, invoke, tmp_path, pipelines, monkeypatch):
    sdxl, good, bad = loras
    monkeypatch.setattr("visalign.evaluation.sources.load_generator", None)
    asked = ("--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "no")
    for source, scale, words in (
            (f"{sdxl}+negative:{bad}", 1, "away: negative adapter"),
            (f"{sdxl}+negative:{bad}", 0.5, "at guidance scale 0.5 there is no unconditional branch"),
            (f"{sdxl}+negative:0.5:{bad}", 3, "a negative scale of 0.5 takes so much of the model's LoRA off"),
            (f"{pipelines('sd3')}+negative:{bad}", 3, f"negative adapter: lora {bad}"),
            (f"{sdxl}+negative:{tmp_path / 'gone'}", 3, "gone: there is no such file or folder")):
        done = invoke("compare", f"plain={sdxl}", f"away={source}", "--guidance-scale", scale, *asked)
        assert done.exit_code == 1 and words in done.output and "Traceback" not in done.output, done.output
    assert not (tmp_path / "no").exists()


def test_the_strength_of_adapters_is_that_of_the_negative_one_too(loras):
    sdxl, good, bad = loras
    like = ModelSettings(source=sdxl, precision="fp32", prompt_tokens=8)
    plain, away = (source_of(name, f"{sdxl}{words}", like) for name, words in
                   (("plain", ""), ("away", f"+{good}+negative:0.5:{bad}")))

    def look(generator):
        [[image]] = generator.sample(["a cat face"], [5], steps=3, guidance_scale=3.0)
        return np.asarray(image, dtype=int)

    base, generator = look(plain.load("cpu")), away.load("cpu")
    whole = look(generator)
    generator.set_adapter_strength(0.0)
    assert (look(generator) == base).all()
    generator.set_adapter_strength(0.25)
    quarter = look(generator)
    generator.set_adapter_strength(1.0)
    assert (look(generator) == whole).all()
    assert 0 < np.abs(quarter - base).mean() < np.abs(whole - base).mean()
