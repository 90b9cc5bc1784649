"""MOSSBench as its repository and its data set on the hub have it."""

import json

import pytest
from PIL import Image

from visalign.data.mossbench import STIMULI
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.media.source_images import source_images_of, words_of

QUESTIONS = ("Describe a game for these toys.", "Write a slogan for this.", "Can I break this?")


@pytest.fixture
def repository(tmp_path):
    """data/ of the repository: rows by their numbers, one of each kind, two of them with the same question."""
    folder = tmp_path / "data"
    for place in ("images", "images_information"):
        (folder / place).mkdir(parents=True)
    rows = {}
    for number in range(1, 5):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / "images" / f"{number}.png")
        kind = min(number, 3)
        rows[str(number)] = {"image": f"images/{number}.png", "question": QUESTIONS[kind - 1], "pid": str(number),
                             "short description": "", "metadata": {"over": f"type {kind}", "human": 0, "harm": [7]}}
    (folder / "images_information" / "information.json").write_text(json.dumps(rows))
    return folder


def test_every_question_comes_with_its_image(repository):
    prompts = read_prompts(f"mossbench:{repository}")
    assert list(map(words_of, prompts)) == [*QUESTIONS, QUESTIONS[2]] and len(set(prompts)) == 4
    assert source_images_of(prompts[1])[0].getpixel((0, 0)) == (120, 0, 0)
    assert read_prompts(f"mossbench:{repository / 'images_information' / 'information.json'}", 2) == prompts[:2]


def test_a_kind_of_stimulus_is_read_alone(repository):
    read = {kind: list(map(words_of, read_prompts(f"mossbench:{kind}:{repository}"))) for kind in STIMULI}
    assert read == {"exaggerated_risk": [QUESTIONS[0]], "negated_harm": [QUESTIONS[1]],
                    "counterintuitive_interpretation": [QUESTIONS[2]] * 2}


def test_the_table_of_the_hub_is_read(repository):
    table = repository / "metadata.csv"
    table.write_text("file_name,pid,question,metadata_over\nimages/1.png,1,What is this?,type 2\n")
    (repository / "images_information" / "information.json").unlink()
    assert words_of(read_prompts(f"mossbench:negated_harm:{repository}")[0]) == "What is this?"
    with pytest.raises(UserError, match="holds no question of the kind exaggerated_risk"):
        read_prompts(f"mossbench:exaggerated_risk:{repository}")


@pytest.mark.parametrize(("change", "words"), [
    ({"question": None}, "entry 1: 'question' is empty"),
    ({"image": "images/9.png"}, "'image' names .*images/9.png, which does not exist"),
    ({"image": None}, "entry 1: names no image"),
    ({"metadata": {"over": "type 4"}}, "entry 1: 'metadata.over' is 'type 4'; one of type 1, type 2 and type 3")])
def test_what_a_row_lacks_is_said(repository, change, words):
    file = repository / "images_information" / "information.json"
    rows = json.loads(file.read_text())
    rows["1"] |= change
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=words):
        read_prompts(f"mossbench:exaggerated_risk:{repository}")


def test_what_is_no_suite_is_said(tmp_path, repository):
    with pytest.raises(UserError, match="exagerated_risk is no kind of stimulus .did you mean 'exaggerated_risk'"):
        read_prompts(f"mossbench:exagerated_risk:{repository}")
    with pytest.raises(UserError, match="holds none of images_information/information.json, "):
        read_prompts(f"mossbench:{tmp_path}")
    with pytest.raises(UserError, match="nowhere is neither a folder nor a table"):
        read_prompts(f"mossbench:{tmp_path / 'nowhere'}")
    (tmp_path / "information.json").write_text('"text"')
    with pytest.raises(UserError, match="expected objects by their numbers, found str"):
        read_prompts(f"mossbench:{tmp_path}")
    (tmp_path / "information.json").write_text("[1]")
    with pytest.raises(UserError, match="entry 1: expected an object"):
        read_prompts(f"mossbench:{tmp_path}")
