import json

from click.testing import CliRunner

from visalign.cli import main
from visalign.config import TextDataSettings
from visalign.language.data_check import check_text_pairs


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_a_set_of_text_is_counted(tmp_path):
    """Five rows: one broken, one with equal answers, two that contradict each other, one alone."""
    file = write(tmp_path / "pairs.jsonl", [
        row("a?", "yes it is", "no"), row("a?", "no", "yes it is"), row("b?", "same", "same"),
        row("c?", [{"role": "assistant"}], "no"), row("d?", "one two three", "four")])
    found = CliRunner().invoke(main, ["data", "check", str(file)])
    assert found.exit_code == 1
    for words in ("3 pairs of 2 prompts; 0 repeated, 1 contradict another one", "words of chosen answers: 3 in the",
                  "broken: ", "message 1 of 'chosen' has role; role and content are expected"):
        assert words in found.output, found.output


def test_length_that_tells_answers_apart_is_said(tmp_path):
    file = write(tmp_path / "pairs.jsonl", [row(f"{i}?", "short", "a longer answer") for i in range(10)])
    assert "length is what will be learnt" in check_text_pairs(TextDataSettings(path=str(file))).text()


def test_a_model_says_how_likely_the_answers_are_and_which_are_alike(tmp_path, tiny_lm):
    file = write(tmp_path / "pairs.jsonl", [row(f"What is {i}?", "water", "rain and salt") for i in range(20)])
    found = check_text_pairs(TextDataSettings(path=str(file)), str(tiny_lm), alike=True).text()
    assert "log-probability per token: -" in found and "of the model's own" in found
    assert "which become less likely together" in found and found.count("ches") >= 1
    assert "tokens of prompt and answer" in found


def test_options_of_text_are_refused_elsewhere(tmp_path):
    found = CliRunner().invoke(main, ["data", "check", str(tmp_path), "--ches"])
    assert found.exit_code == 1 and "--model and --ches are for pairs of text" in found.output
