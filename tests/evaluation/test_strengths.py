"""The strength that is chosen after training, and a run measured at several of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from visalign.cli import main
from visalign.config.load import load_config
from visalign.config.recipes import find_recipe
from visalign.errors import UserError
from visalign.evaluation.sources import run_config, run_source, source_of
from visalign.evaluation.strengths import choice_in_words, choose_strength, read_strengths, strength_name
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.verdict import Verdict
from visalign.generators import load_generator
from visalign.generators.export.exporting import export
from visalign.jobs.soup import make_soup
from visalign.jobs.strengths import sources_at
from visalign.storage.run_folder import RunFolder


def verdict(gain, diversity, word="healthy"):
    """A gain with 0.1 to either side, and a change of diversity (value, low, high)."""
    return Verdict(word, (), "r", diversity and Estimate(*diversity), {"r": Estimate(gain, gain - 0.1, gain + 0.1)})


def chosen(*verdicts, budget=0.15):
    strengths = {"base": 0.0} | {strength_name(i + 1): i + 1.0 for i in range(len(verdicts))}
    named = {strength_name(i + 1): each for i, each in enumerate(verdicts)}
    best = choose_strength(strengths, named, "r", budget)
    return best, choice_in_words(strengths, named, "r", budget, best)


def test_strengths_are_evenly_spaced_with_the_base_before_them():
    assert read_strengths("0:1.5:7") == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert read_strengths("0.1:0.3:3") == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("text, words", [
    ("0:2", "expected START:STOP:COUNT"), ("a:1:2", "expected START:STOP:COUNT"), ("0:1:2.5", "expected START:STOP"),
    ("1:1:3", "START must be below STOP"), ("-1:1:3", "both at least 0 and at most 10"), ("0:11:3", "at most 10"),
    ("0:nan:3", "START must be below STOP"), ("0:1:1", "COUNT must be at least 2"), ("0:1:51", "at most 50"),
    ("1:1.0001:9", "told apart by 4 decimals")])
def test_what_is_no_row_of_strengths_is_said_so(text, words):
    with pytest.raises(UserError, match=words):
        read_strengths(text)


def test_the_largest_reward_within_the_budget_is_chosen():
    best, sentence = chosen(verdict(0.2, (-0.02, -0.05, 0.01)), verdict(0.5, (-0.08, -0.14, -0.02)),
                            verdict(0.9, (-0.12, -0.19, -0.05)))
    assert best == "strength 2"
    assert sentence == ("strength 2 gains the most r within the budget of a 15 % loss of diversity: r +0.50 standard "
                        "deviations of the base [+0.40, +0.60], diversity -8 % [-14, -2]")


def test_the_whole_interval_counts_and_another_budget_chooses_otherwise():
    row = (verdict(0.2, (-0.02, -0.05, 0.01)), verdict(0.5, (-0.08, -0.16, -0.02)))
    assert chosen(*row)[0] == "strength 1" and chosen(*row, budget=0.2)[0] == "strength 2"


def test_no_strength_counts_beyond_the_first_that_leaves_the_budget():
    within, outside = (-0.05, -0.1, 0.0), (-0.1, -0.2, 0.0)
    assert chosen(verdict(0.2, within), verdict(0.5, outside), verdict(0.9, within))[0] == "strength 1"


def test_trying_many_strengths_keeps_the_error_of_one_interval():
    """Six strengths that lose just what the budget allows, each with noise of its own: whoever takes any whose interval
    is inside is wrong far more often."""
    rng, strengths = np.random.default_rng(0), {f"s{i}": i + 1.0 for i in range(6)}
    wrong = any_inside = 0
    for _ in range(200):
        base = rng.gamma(8, 0.25, 24)
        after = 0.85 * base + rng.normal(0, 0.35, (6, 24))
        drawn = rng.integers(0, 24, (400, 24))
        ratio = after[:, drawn].mean(-1) / base[drawn].mean(-1) - 1
        found = {name: verdict(s, (0.0, float(np.quantile(each, 0.025)), 1.0))
                 for (name, s), each in zip(strengths.items(), ratio, strict=True)}
        wrong += choose_strength(strengths, found, "r", 0.15) is not None
        any_inside += any(each.diversity.low > -0.15 for each in found.values())
    assert wrong / 200 < 0.08 < 0.12 < any_inside / 200


def test_strengths_may_come_in_any_order():
    found = {"b": verdict(0.5, (-0.1, -0.2, 0.0)), "a": verdict(0.2, (0.0, -0.1, 0.1))}
    assert choose_strength({"base": 0.0, "b": 2.0, "a": 1.0}, found, "r", 0.15) == "a"


def test_what_is_hacked_or_collapsed_or_gains_nothing_is_not_chosen():
    within = (-0.05, -0.1, 0.0)
    assert chosen(verdict(0.2, within), verdict(0.5, within, "hacked"), verdict(0.9, within, "collapsed"))[
        0] == "strength 1"
    best, sentence = chosen(verdict(-0.2, within), verdict(0.0, within))
    assert best is None and sentence.startswith("none of these strengths gains r within the budget of a 15 % loss of")
    assert "at the smallest, 1, r -0.20" in sentence


def test_diversity_that_is_not_known_is_not_within_a_budget():
    assert chosen(verdict(0.2, None))[0] is None and "diversity unknown" in chosen(verdict(0.2, None))[1]
    assert chosen(verdict(0.2, (0.0, -np.inf, np.inf)))[0] is None


def test_a_gain_that_is_not_clear_of_0_is_told():
    assert chosen(verdict(0.05, (0.0, -0.01, 0.01)))[1].endswith(", a gain that is not clear of 0")


OPTIONS = ("--samples-per-prompt", 2, "--max-prompts", 2, "-r", "contrast,saturation", "--steps", 2,
           "--guidance-scale", 1)


@pytest.fixture
def finished(recipe, tmp_path):
    def made(model="sd3", tuning="lora", name="run", **lora):
        config = load_config(recipe(model, model={"tuning": tuning}))
        generator = load_generator(config.model, "cpu")
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in generator.make_trainable(tuning, rank=2, alpha=6, **lora):
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = RunFolder(tmp_path / name, config).path
        export(generator, folder / "export", config, {})
        return folder

    return made


def invoke(*words):
    return CliRunner().invoke(main, [*map(str, words), "--cache", ""])


def image(generator):
    [[made]] = generator.sample(["a cat face"], [5], steps=2, guidance_scale=1.0)
    return np.asarray(made, dtype=int)


def test_a_run_is_measured_at_every_strength_and_one_is_chosen(finished, tmp_path):
    run, out = finished(), tmp_path / "out"
    command = ("evaluate", run, "--strengths", "0:1:3", "--budget", 0.99, *OPTIONS, "-o", out)
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "results.json").read_text())
    assert found["models"] == ["strength 0", "strength 0.5", "strength 1"] and found["base"] == "strength 0"
    choice = found["strengths"]
    assert choice["strengths"] == {"strength 0": 0, "strength 0.5": 0.5, "strength 1": 1}
    assert (choice["reward"], choice["budget"], choice["run"]) == ("contrast", 0.99, "run")
    assert choice["sentence"] in done.output and choice["sentence"].replace("'", "&#39;") in (
        out / "report.html").read_text()
    if choice["best"]:
        strength = choice["strengths"][choice["best"]]
        assert choice["command"] == f"visalign soup {run}={strength:g} --out {run}-at-{strength:g}"
        assert f"to write it: {choice['command']}" in done.output
    else:
        assert choice["command"] is None
    files = [out / "generations" / name / "00000.png" for name in ("strength-0", "strength-0.5", "strength-1")]
    assert len({file.read_bytes() for file in files}) == 3
    for name in ("results.json", "generations/strength-0.5/samples.jsonl", "generations/strength-0.5/00003.png"):
        (out / name).unlink()
    kept = {file: file.read_bytes() for file in out.glob("generations/*/*.png")}
    assert invoke(*command).exit_code == 0 and all(file.read_bytes() == content for file, content in kept.items())
    assert "already holds results" in invoke(*command).output


def test_a_strength_is_the_soup_of_the_run_at_that_weight(finished, tmp_path):
    run = finished()
    make_soup((f"{run}=0.5",), tmp_path / "half")
    kind, sources = sources_at(run, run_config(run), [0.0, 0.5, 1.0])
    model = run_config(run).model
    wanted = [source_of("base", model.source, model), source_of("half", f"{model.source}+{tmp_path / 'half'}", model),
              run_source("run", run)]
    images = [image(each.load("cpu")) for each in sources]
    assert kind == "lora"
    for found, other in zip(images, wanted, strict=True):
        assert np.abs(found - image(other.load("cpu"))).max() <= 1
    assert np.abs(images[0] - images[1]).max() > 3 and np.abs(images[1] - images[2]).max() > 3
    assert np.array_equal(image(sources[0].load("cpu")), images[0])  # whatever strength came before


def test_all_weights_have_strengths_too(finished, tmp_path):
    run = finished("sd15", "full")
    make_soup((f"{run}=0.5",), tmp_path / "half")
    kind, sources = sources_at(run, run_config(run), [0.0, 0.5, 1.0])
    model = run_config(run).model
    wanted = [source_of("base", model.source, model), source_of("half", str(tmp_path / "half" / "pipeline"), model),
              run_source("run", run)]
    images = [image(each.load("cpu")) for each in sources]
    assert kind == "full"
    for found, other in zip(images, wanted, strict=True):
        assert np.abs(found - image(other.load("cpu"))).max() <= 1
    assert np.abs(images[0] - images[1]).max() > 3 and np.abs(images[1] - images[2]).max() > 3


def said(*words) -> str:
    done = invoke(*words)
    assert done.exit_code == 1 and "Traceback" not in done.output, done.output
    return done.output


def test_what_has_no_strengths_is_said_in_a_sentence_before_anything_is_sampled(finished, tmp_path, monkeypatch):
    run = finished()
    monkeypatch.setattr("visalign.jobs.strengths.compare_models", None)
    ask = ("evaluate", run, "--strengths", "0:1:3")
    assert "give one of them" in said(*ask, "--checkpoints", "all")
    assert "give --strengths as well" in said("evaluate", run, "--budget", 0.1)
    assert "--samples-per-prompt 1 shows no diversity" in said(*ask, "--samples-per-prompt", 1)
    assert "brings its own model settings" in said(*ask, "--set", "frames=3")
    assert "no reward is known as the optimised one" in said(*ask, "-r", "")
    for source in (tmp_path, f"{run}+negative:{run}", run / "checkpoints" / "step-1", f"tiny-sd3+{run}"):
        assert "--strengths needs the folder of a finished run, alone" in said("evaluate", source, *ask[2:])
    dora = finished(name="dora", kind="dora")
    assert "is a dora, which has no strengths but 0 and 1" in said("evaluate", dora, *ask[2:])
    shutil.rmtree(run / "export")
    assert "has no export yet" in said(*ask)


def test_a_language_model_s_run_has_no_strengths(tmp_path):
    folder = RunFolder(tmp_path / "run", load_config(find_recipe("language/dpo"))).path
    assert "--strengths is for image and video models" in said("evaluate", folder, "--strengths", "0:1:3")
