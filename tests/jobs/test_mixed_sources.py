"""A run on several sources: a subject, a prior set, several captions; counted, reported, resumed."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.storage.yaml_files import read_mapping


@pytest.fixture
def sources(tmp_path):
    """Three captioned images, and two of a prior set without captions."""
    for name, many in (("mine", 3), ("prior", 2)):
        (tmp_path / name).mkdir()
        for number in range(many):
            Image.new("RGB", (16, 16), (90 * number, 40, 9)).save(tmp_path / name / f"{number}.png")
    for number, text in enumerate(("sks one\nred one", "sks two\ntwo", "sks three")):
        (tmp_path / "mine" / f"{number}.txt").write_text(text)
    return [{"path": str(tmp_path / "mine"), "repeats": 2},
            {"path": str(tmp_path / "prior"), "prior": True, "caption": "a thing", "loss_weight": 0.5}]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_a_run_on_two_sources_counts_them_and_resumes_to_the_same_mixture_only(recipe, sources, tmp_path):
    data = {"path": None, "sources": sources, "holdout": 0.0, "captions": {"wildcards": True}}
    file = recipe("sd3", "sft", data=data, eval={"prompts": ["a red fruit"]}, train={"steps": 2})
    planned = invoke("train", file, "--dry-run")
    assert planned.exit_code == 0 and "mine: 6 to learn from, 50% of the visits" in planned.output, planned.output
    assert "5 pairs or captioned media of 3 prompts (6 with all captions)" in planned.output
    done = invoke("train", file)
    assert done.exit_code == 0, done.output
    assert "prior: 2 images or videos of a prior set, 50% of the visits, loss weight 0.5" in done.output
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"training pairs of {sources[0]['path']}" in report
    assert read_mapping(tmp_path / "run" / "config.yaml", "run")["data"]["sources"][1]["prior"] is True
    sources[1]["share"] = 0.25
    checked = invoke("data", "check", file, "--sheet", tmp_path / "sheet.png")
    assert checked.exit_code == 0 and "captions: 5 for 3 pairs or media, 1.7 each, at most 2" in checked.output
    assert (tmp_path / "sheet-2.png").is_file()
    file = recipe("sd3", "sft", data=data, eval={"prompts": ["a red fruit"]}, train={"steps": 3})
    other = invoke("train", file, "--resume")
    assert other.exit_code == 1 and "cannot resume" in other.output, other.output


def test_a_prior_set_is_refused_where_two_samples_are_compared(recipe, sources):
    done = invoke("train", recipe("sd3", data={"path": None, "sources": sources}))
    assert done.exit_code == 1 and "is a prior set of single images, which objective.name=sft" in done.output


@pytest.mark.parametrize("change, says", [
    ({"share": 0.3, "repeats": 2}, "has both repeats and share"), ({"share": 1.5}, "below 1"),
    ({"prior": True}, "all are prior sets"), ({"weight": 2}, "unknown key"),
    ({"path": "nowhere.jsonl"}, "no such file")])
def test_bad_mixtures_end_in_a_sentence(recipe, sources, change, says):
    sources[0] = {key: value for key, value in sources[0].items() if key != "repeats" or "repeats" in change} | change
    done = invoke("train", recipe("sd3", "sft", data={"path": None, "sources": sources}))
    assert done.exit_code == 1 and says in done.output and json.dumps(done.output).count("Traceback") == 0, done.output
