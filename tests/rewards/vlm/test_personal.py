"""A judge that is shown what one person preferred: chains averaged, pairs kept, and what is refused."""

import json
import math
import re
import statistics

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.history import HISTORY_FILE, Preferred, read_history, write_history
from visalign.rewards.vlm.personal import over_chains, weighted_mark
from visalign.storage.hashed_users import hashed_user

from .server import ChatServer
from .test_vlm import judge

RED, BLUE, GREY = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "grey"))


def chain(*criteria):
    return json.dumps({"persona": "p", "criteria": [{"criterion": "c", "weight": w, "mark": m} for w, m in criteria]})


@pytest.fixture
def history(tmp_path):
    """Ann prefers red, bob blue; one pair each but ann, who has three."""
    write_history(tmp_path / "taste", {
        hashed_user("ann"): [Preferred(f"thing {i}", (RED,), (BLUE,)) for i in range(3)],
        hashed_user("bob"): [Preferred("thing 0", (BLUE,), (RED,))]})
    return tmp_path / "taste"


def personal(server, history, **settings):
    return judge(server, "vlm_personal", history=str(history), **settings)


def test_a_mark_is_the_weighted_mean_of_the_criteria():
    assert weighted_mark(chain((3, 8), (1, 4))) == 7.0
    assert weighted_mark("<think>{\"criteria\": 3}</think>So: ```json\n" + chain((1, 2)) + "\n```") == 2.0


@pytest.mark.parametrize("text, said", [
    ("I like it: 8", "not JSON"), ("[3]", "not JSON"), ('{"mark": 8}', "no list of 1 to 12 criteria"),
    ('{"criteria": []}', "no list"), (chain((0, 5)), "weights are above 0"), (chain((1, 11)), "marks from 0 to 10"),
    ('{"criteria": [{"weight": true, "mark": 3}]}', "no number as its weight"),
    ('{"criteria": [{"weight": 1, "mark": "high"}]}', "no number as its mark"),
    ('{"criteria": ["sharp"]}', "no number as its weight"), (chain((float("inf"), 3)), "weights are above 0"),
    (chain((1, float("nan"))), "marks from 0 to 10")])
def test_any_other_answer_is_no_mark(text, said):
    with pytest.raises(ValueError, match=said):
        weighted_mark(text)


def test_chains_that_do_not_end_in_a_mark_are_left_out_and_counted():
    mean, spread, remark = over_chains([6.0, Failure("cut off"), 8.0, Failure("refused")])
    assert (mean, remark) == (7.0, "2 of 4 answers not usable: cut off") and spread == pytest.approx(2**0.5)
    assert over_chains([6.0, 8.0]) == (7.0, pytest.approx(2**0.5), None)
    one = over_chains([6.0, Failure("cut off")])
    assert one[0] == 6.0 and math.isnan(one[1])
    none = over_chains([Failure("cut off"), Failure("refused")])
    assert math.isnan(none[0]) and math.isnan(none[1]) and none[2].startswith("2 of 2 answers not usable")


def test_scripted_chains_are_averaged_and_their_deviation_is_the_spread(history):
    said = [chain((1, 4)), "no idea", chain((1, 9)), chain((2, 5), (2, 6))]
    with ChatServer(lambda text, images, count: said[count - 1]) as server:
        answer = personal(server, history, user="ann", concurrency=1).score([Sample("a car", GREY)])
    assert answer.values.item() == pytest.approx((4 + 9 + 5.5) / 3)
    assert answer.spread.item() == pytest.approx(statistics.stdev([4, 9, 5.5]))
    assert answer.remarks[0].startswith("1 of 4 answers not usable: the answer is not JSON")


def test_all_chains_lost_is_no_score(history):
    with ChatServer(lambda *_: "no idea") as server:
        answer = personal(server, history, user="ann").score([Sample("a car", GREY)])
    assert answer.values.isnan().all() and answer.spread.isnan().all() and "4 of 4" in answer.remarks[0]


def told_colour(text: str, images: list[str]) -> str:
    """A model that takes what this person chose in the first pair, and marks 9 for it and 1 for anything else."""
    first = "chose the first" in re.search(r"Pair 1,.*", text)[0]
    return chain((1, 9 if images[-1] == images[0 if first else 1] else 1))


def test_samples_are_judged_for_their_own_annotator_and_in_any_order_of_a_pair(history):
    samples = [Sample("a car", RED, known={"user": hashed_user("ann")}),
               Sample("a car", RED, known={"user": hashed_user("bob")}),
               Sample("a car", BLUE, known={"user": hashed_user("bob")})]
    with ChatServer(lambda text, images, count: told_colour(text, images)) as server:
        own = personal(server, history).score(samples).values[:, 0].tolist()
        anns = personal(server, history, user="ann").score(samples).values[:, 0].tolist()
        texts = [part["text"] for request in server.requests for part in request["body"]["messages"][0]["content"]
                 if part["type"] == "text"]
    assert own == [9, 1, 9] and anns == [9, 9, 1]
    firsts = [re.search(r"Pair 1,.*", text)[0].count("the first") for text in texts]
    assert 0 < sum(firsts) < len(firsts)


def test_a_pair_about_the_prompt_that_is_judged_is_not_shown(history):
    with ChatServer(lambda *_: chain((1, 5))) as server:
        reward = personal(server, history, user="ann")
        assert reward.score([Sample("thing 1", RED)]).values.item() == 5
        assert all("«thing 1»" not in json.dumps(request["body"], ensure_ascii=False) for request in server.requests)
        answer = personal(server, history, user="bob").score([Sample("thing 0", RED)])
    assert answer.values.isnan().all() and answer.remarks[0] == "the user's only pairs are about this prompt itself"


def test_no_more_than_examples_are_shown(history):
    with ChatServer(lambda *_: chain((1, 5))) as server:
        personal(server, history, user="ann", examples=2).score([Sample("a car", RED)])
        content = server.requests[0]["body"]["messages"][0]["content"]
    assert sum(part["type"] == "image_url" for part in content) == 5


def test_chains_are_asked_apart_and_remembered_apart(history, tmp_path):
    with ChatServer(lambda text, images, count: chain((1, count))) as server:
        reward = personal(server, history, user="bob", chains=6, cache=str(tmp_path / "answers.sqlite"))
        first = reward.score([Sample("a car", RED)]).values.item()
        again = personal(server, history, user="bob", chains=6, cache=str(tmp_path / "answers.sqlite"))
        assert again.score([Sample("a car", RED)]).values.item() == first == 3.5
        assert len(server.requests) == 6


def test_nobody_and_strangers_get_no_score(history):
    with ChatServer(lambda *_: chain((1, 5))) as server:
        reward = personal(server, history)
        answer = reward.score([Sample("a car", RED), Sample("a car", RED, known={"user": hashed_user("eve")})])
        assert not server.requests
    assert answer.values.isnan().all()
    assert "nobody's taste" in answer.remarks[0] and hashed_user("eve") in answer.remarks[1]


@pytest.mark.parametrize("settings, said", [
    ({}, "history is missing; `visalign reward fit-user`"),
    ({"history": "nowhere"}, "nowhere holds no history.json"),
    ({"user": "eve"}, "user eve is not among the 2 of"),
    ({"temperature": 0.0}, "all chains would say the same"),
    ({"logprobs": True}, "logprobs"), ({"chains": 1}, "chains"), ({"dimension": " "}, "dimension is empty")])
def test_bad_settings_end_in_a_sentence_before_anything_is_asked(history, settings, said):
    spec = {"kind": "vlm_personal", "url": "http://127.0.0.1:9/v1", "cache": None} | (
        {"history": str(history)} if settings else {}) | settings
    with pytest.raises(UserError, match=said):
        load_reward(spec)


@pytest.mark.parametrize("said, why", [
    ('{"users": {}}', "names no user"), ('{"users": {"a": [{"prompt": "p"}]}}', "a pair must have a prompt"),
    ('{"users": {"a": [{"prompt": "p", "chosen": ["../x.png"], "rejected": ["y.png"]}]}}', "images in the folder"),
    ('{"users": {"a": [{"prompt": "p", "chosen": ["x.png"], "rejected": ["y.png"]}]}}', "x.png"),
    ("{", "not readable as JSON")])
def test_a_broken_history_names_its_file(tmp_path, said, why):
    (tmp_path / HISTORY_FILE).write_text(said)
    with pytest.raises(UserError, match=why) as caught:
        read_history(tmp_path, "reward x: history")
    assert "\n" not in str(caught.value)


def test_fit_user_keeps_the_pairs_of_each_user(tmp_path):
    lines = []
    for i, (user, winner) in enumerate([("ann", "a"), ("ann", "tie"), ("bob", "b")]):
        for side, image in (("a", RED), ("b", BLUE)):
            image.save(tmp_path / f"{i}{side}.png")
        lines.append({"prompt": f"thing {i}", "a": f"{i}a.png", "b": f"{i}b.png", "quality": winner, "user": user})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "judge.yaml").write_text("kind: vlm_personal\nurl: http://127.0.0.1:9/v1\ndimension: quality\n")

    def fit(out, *more):
        return CliRunner().invoke(main, ["reward", "fit-user", str(tmp_path / "judge.yaml"),
                                         str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / out), *more])

    result = fit("taste")
    assert result.exit_code == 0, result.output
    assert f"{hashed_user('ann')}: fitted on 1 pairs" in result.output and "vlm_personal" in result.output
    kept = read_history(tmp_path / "taste", "history")
    assert {user: len(pairs) for user, pairs in kept.items()} == {hashed_user("ann"): 1, hashed_user("bob"): 1}
    colours = {user: pair.chosen[0].getpixel((0, 0)) for user, [pair] in kept.items()}
    assert colours == {hashed_user("ann"): (255, 0, 0), hashed_user("bob"): (0, 0, 255)}
    assert "ann" not in (tmp_path / "taste" / HISTORY_FILE).read_text()
    again = fit("taste")
    assert again.exit_code == 1 and "exists already" in again.output
    wrong = fit("other", "--name", "eve")
    assert wrong.exit_code == 1 and "of another user than --name eve" in wrong.output
    assert not (tmp_path / "other").exists()


def test_reward_eval_judges_pairs_for_their_users(history, tmp_path):
    """Ann's and bob's pairs are opposite, so that no reward without users orders both."""
    lines = []
    for i, (user, winner) in enumerate([("ann", "a"), ("bob", "b")] * 3):
        for side, image in (("a", RED), ("b", BLUE)):
            image.save(tmp_path / f"{i}{side}.png")
        lines.append({"prompt": f"other {i}", "a": f"{i}a.png", "b": f"{i}b.png", "quality": winner, "user": user})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with ChatServer(lambda text, images, count: told_colour(text, images)) as server:
        (tmp_path / "judge.yaml").write_text(
            f"kind: vlm_personal\nurl: {server.url}\nhistory: {history}\ndimension: quality\ncache: null\n")
        result = CliRunner().invoke(main, ["reward", "eval", str(tmp_path / "judge.yaml"),
                                           str(tmp_path / "pairs.jsonl"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert re.search(r"quality +all +6 +1\.000", result.output), result.output


def test_a_history_keeps_frames(tmp_path):
    write_history(tmp_path / "taste", {"user-0": [Preferred("p", (RED, GREY), (BLUE,))]})
    [pair] = read_history(tmp_path / "taste", "history")["user-0"]
    assert [image.getpixel((0, 0)) for image in (*pair.chosen, *pair.rejected)] == [
        (255, 0, 0), (128, 128, 128), (0, 0, 255)]
    assert pair.prompt == "p"
