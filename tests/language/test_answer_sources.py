"""Language models that are asked by `compare` and `evaluate`."""

import json

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.errors import UserError
from visalign.language.answer_sources import answer_source, is_language_model


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text("What is rain?\nWhat is a hat?\nName a tree.\n")
    return file


def visalign(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def compared(out):
    return json.loads((out / "results.json").read_text())


OPTIONS = ("-r", "brevity,repetition", "--features", "minilm", "--samples-per-prompt", 2)


def test_two_models_answer_the_same_questions_with_the_same_seeds(tiny_lm, prompts, tmp_path):
    out = tmp_path / "out"
    command = ("compare", f"a={tiny_lm}", f"b={tiny_lm}", "--prompts", prompts, "--set", "max_tokens=6", "--out", out,
               *OPTIONS)
    found = visalign(*command)
    assert found.exit_code == 0, found.output
    a, b = ([json.loads(line) for line in (out / "generations" / name / "samples.jsonl").read_text().splitlines()]
            for name in "ab")
    assert a == b and len(a) == 6 and len({row["seed"] for row in a}) == 6  # one model, so the same answers
    assert {row["prompt"] for row in a} == {"What is rain?", "What is a hat?", "Name a tree."}
    sampling = compared(out)["about"]["sampling"]
    assert sampling == {"tokens at most": 6, "temperature": 1.0, "first seed": 0}
    (out / "results.json").unlink()
    before = (out / "generations" / "a" / "samples.jsonl").stat().st_mtime_ns
    assert visalign(*command).exit_code == 0  # what was answered is not asked again
    assert (out / "generations" / "a" / "samples.jsonl").stat().st_mtime_ns == before
    (out / "results.json").unlink()
    other = visalign(*command, "--seed", 1)
    assert other.exit_code == 1 and "holds samples of other settings" in other.output


def test_a_run_is_asked_as_it_measures_and_stands_beside_its_base(recipe, tiny_lm, prompts, tmp_path):
    from visalign.language.run import train_language

    config = recipe("model.system=Be brief.")
    train_language(config)
    run = config.output.folder
    found = visalign("evaluate", run, "--prompts", prompts, "--out", tmp_path / "asked", *OPTIONS)
    assert found.exit_code == 0, found.output
    settings = json.loads((tmp_path / "asked" / "generations" / "aligned" / "settings.json").read_text())
    assert settings["system"] == "Be brief." and settings["max_tokens"] == 8 and settings["adapters"]
    by_hand = {name: visalign("lm", "generate", run, "What is rain?", "--max-tokens", 6, *more).output
               for name, more in (("run", ()), ("same", ("--system", "Be brief.")), ("other", ("--system", "Hm.")))}
    assert "is asked with the system's turn that it learnt with, 'Be brief.'" in by_hand["run"]
    answers = {name: output.rstrip().splitlines()[-1] for name, output in by_hand.items()}
    assert answers["run"] == answers["same"] != answers["other"], by_hand
    results = compared(tmp_path / "asked")
    assert results["models"] == ["base", "aligned"] and results["about"]["sampling"]["tokens at most"] == 8
    base, aligned = ((tmp_path / "asked" / "generations" / name / "samples.jsonl").read_text()
                     for name in ("base", "aligned"))
    assert base != aligned  # lr 1e-2
    beside = visalign("compare", f"base={tiny_lm}", f"dpo={run}", "--max-prompts", 2, "--out", tmp_path / "beside",
                      *OPTIONS)
    assert beside.exit_code == 0, beside.output  # the run's own held-out prompts
    assert compared(tmp_path / "beside")["about"]["sampling"]["tokens at most"] == 8
    own = visalign("evaluate", run, "--out", tmp_path / "own", "-r", "brevity", "--features", "minilm")
    assert own.exit_code == 0 and compared(tmp_path / "own")["about"]["sampling"] is None  # what it measured itself
    for wrong, words in ((("--checkpoints", "all", "--prompts", prompts), "leave --prompts and --max-prompts out"),
                         (("--prompts", prompts, "--steps", 4), "steps: is of image and video models")):
        refused = visalign("evaluate", run, "--out", tmp_path / "no", *wrong)
        assert refused.exit_code == 1 and words in refused.output
    refused = visalign("compare", f"a={tiny_lm}", f"b={run}", "--set", "max_tokens=4", "--out", tmp_path / "no")
    assert refused.exit_code == 1 and "says itself how it is asked" in refused.output


def test_what_cannot_be_asked(tiny_lm, tmp_path):
    refused = visalign("compare", f"a={tiny_lm}", f"b={tiny_lm}", "--out", tmp_path / "no", *OPTIONS)
    assert refused.exit_code == 1 and "prompts: give --prompts" in refused.output
    refused = visalign("compare", f"a={tiny_lm}", "b=tiny-sd3", "--prompts", "topics:held_out", "--out",
                       tmp_path / "no", *OPTIONS)
    assert refused.exit_code == 1 and "a makes texts and b makes images or videos" in refused.output
    refused = visalign("evaluate", tiny_lm, "--prompts", "topics:held_out", "--set", "max_tokns=4", "--out",
                       tmp_path / "no", *OPTIONS)
    assert refused.exit_code == 1 and "unknown key answers.max_tokns" in refused.output
    with pytest.raises(UserError, match="no such file"):
        answer_source("a", str(tmp_path / "gone.gguf"))
    assert is_language_model("smollm2") and is_language_model(str(tiny_lm)) and not is_language_model("tiny-sd3")
    assert not is_language_model(str(tmp_path))


def test_the_demo_names_how_to_make_answers(tiny_lm, tmp_path):
    from visalign_demo.context import upload_modality

    with pytest.raises(UserError, match="a is a language model; the demo shows answers that are there"):
        upload_modality([answer_source("a", str(tiny_lm))])
