"""Facts by other rewards in a question: told in order, part of what is remembered, never made up."""

import re

import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.ocr import OcrText
from visalign.rewards.registry import build_reward
from visalign.rewards.vlm.tools import facts_by

from .server import ChatServer
from .test_vlm import judge

RED, GREY = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "grey")


def by_saturation(text: str, images, count) -> str:
    """A model that sees nothing and says what the tool says."""
    found = re.search(r"- saturation: ([\d.]+)", text)
    return str(1 + 4 * float(found[1])) if found else "3"


def test_one_that_sees_nothing_is_as_good_as_its_tool():
    samples = [Sample("one", RED), Sample("two", GREY)]
    with ChatServer(by_saturation) as server:
        alone = judge(server).score(samples).values.flatten().tolist()
        told = judge(server, tools=["saturation"]).score(samples).values.flatten().tolist()
    assert alone == [3.0, 3.0] and told == [5.0, 1.0]


def test_facts_stand_in_the_order_of_the_tools_before_the_form():
    with ChatServer(lambda *_: "4") as server:
        judge(server, tools=["contrast", "saturation"]).score([Sample("one", RED)])
        [text] = [part["text"] for part in server.requests[0]["body"]["messages"][0]["content"]
                  if part["type"] == "text"]
    facts = text.index("Tools found:\n- contrast: 0\n- saturation: 1\n")
    assert text.index("Does it fit?") < facts < text.index("Answer with JSON")


def test_answers_are_remembered_by_the_facts(tmp_path):
    settings = {"cache": str(tmp_path / "answers.sqlite")}
    with ChatServer(by_saturation) as server:
        for tools in ([], ["saturation"], ["saturation"], []):
            judge(server, tools=tools, **settings).score([Sample("one", RED)])
        assert len(server.requests) == 2


def test_both_of_a_pair_are_told_of_in_both_orders():
    def reply(text, images, count):
        first, second = (float(re.search(rf"- of {n}, saturation: ([\d.]+)", text)[1]) for n in (1, 2))
        return "1" if first > second else "2"

    with ChatServer(reply) as server:
        reward = judge(server, "vlm_pairs", tools=["saturation"])
        assert reward.compare([(Sample("p", RED), Sample("p", GREY)), (Sample("p", GREY), Sample("p", RED))]) == [1, 0]


def test_what_is_not_known_is_not_made_up(monkeypatch):
    assert facts_by(load_reward("motion"), [Sample("p", RED)]) == ["motion: not available"]
    monkeypatch.setattr(OcrText, "read", lambda self, sample: "STOP" if sample.image is RED else "")
    reader = build_reward("ocr")
    assert facts_by(reader, [Sample("no quotes", RED), Sample("no quotes", GREY)]) == ['ocr read: "STOP"',
                                                                                       "ocr read: no text"]


@pytest.mark.parametrize("tools, words", [
    (["saturation", "saturation"], "two are named saturation"),
    ([{"kind": "vlm_pairs", "url": "http://127.0.0.1:9/v1"}], "vlm_pairs compares samples with each other"),
    (["nothing"], "neither a known reward"),
    ([{"kind": "vlm", "url": "http://127.0.0.1:9/v1", "colour": 1}], "unknown key colour"),
])
def test_mistakes_end_in_one_sentence(tools, words):
    with pytest.raises(UserError, match=words):
        build_reward({"kind": "vlm", "url": "http://127.0.0.1:9/v1", "tools": tools})


def test_tools_are_checked_moved_and_weighed(tmp_path):
    reward = build_reward({"kind": "vlm", "url": "http://127.0.0.1:9/v1", "tools": ["tiny-clip"], "cache": None})
    assert reward.held_bytes() == build_reward("tiny-clip").held_bytes() > 0
    reward.to("meta")
    assert torch.device(reward.tools[0].device).type == "meta"
