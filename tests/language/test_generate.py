import json

from click.testing import CliRunner

from visalign.cli import main


def generate(*words):
    return CliRunner().invoke(main, ["--debug", "lm", "generate", *map(str, words)])


def test_answers_are_printed_or_kept_as_other_verbs_read_them(tiny_lm, tmp_path):
    shown = generate(tiny_lm, "What is rain?", "Tell me about salt.", "--max-tokens", 4)
    assert shown.exit_code == 0 and shown.output.count("What is rain?") == 1, shown.output
    kept = generate(tiny_lm, "topics:held_out", "--max-tokens", 4, "--samples-per-prompt", 2, "-o", tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert kept.exit_code == 0 and len(rows) == 48 and rows[0]["prompt"] == rows[1]["prompt"]
    assert {"prompt", "answer", "seed"} <= rows[0].keys()
    scored = CliRunner().invoke(main, ["score", str(tmp_path / "out"), "-r", "brevity", "-o", str(tmp_path / "s.csv")])
    assert scored.exit_code == 0, scored.output
    again = generate(tiny_lm, "topics:held_out", "-o", tmp_path / "out")
    assert again.exit_code == 1 and "already holds samples" in str(again.exception)


def test_a_revision_answers_the_same_prompt_otherwise(tiny_lm, tmp_path):
    for name, more in (("first", ()), ("second", ("--revise", 1))):
        assert generate(tiny_lm, "What is rain?", "--max-tokens", 6, "-o", tmp_path / name, *more).exit_code == 0
    first, second = (json.loads((tmp_path / name / "samples.jsonl").read_text()) for name in ("first", "second"))
    assert first["prompt"] == second["prompt"] == "What is rain?" and first["answer"] != second["answer"]


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    for model, words in ((tmp_path, "is a diffusers pipeline, which makes images or videos"),
                         (tmp_path / "model_index.json", "a language model is a folder of transformers")):
        found = CliRunner().invoke(main, ["lm", "generate", str(model), "What is rain?"])
        assert found.exit_code == 1 and words in found.output, found.output
