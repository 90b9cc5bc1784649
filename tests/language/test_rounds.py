import json

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.evaluators import Estimate
from visalign.language.feedback import with_consistency
from visalign.language.rounds import Round, reason_to_stop, round_config, train_rounds, with_models
from visalign.rewards import load_reward
from visalign.rewards.text.points import points_in

RECIPE = """
loop: language
model: {{source: {model}, lora: {{rank: 2, alpha: 2}}, precision: fp32}}
data: {{feedback: {{prompts: topics:train, max_prompts: 4, samples_per_prompt: 4, reward: {reward}, max_tokens: 6}}}}
rounds: {{count: 2, stop: false}}
objective: {{name: dpo}}
optim: {{lr: 1.0e-3}}
train: {{steps: 1, batch_size: 2}}
eval: {{prompts: topics:held_out, max_prompts: 3, samples_per_prompt: 2, reward: brevity, max_tokens: 6}}
output: {{folder: {out}, trackers: []}}
"""


@pytest.fixture
def recipe(tiny_lm, tmp_path):
    def make(reward="repetition"):
        file = tmp_path / "rounds.yaml"
        file.write_text(RECIPE.format(model=tiny_lm, out=tmp_path / "rounds", reward=reward))
        return file

    return make


def test_each_round_starts_from_the_one_before_and_is_not_made_twice(recipe, tmp_path):
    file = recipe("{kind: density_ratio, name: implicit, strong: '{current}', weak: '{base}', per: sequence}")
    first = CliRunner().invoke(main, ["--debug", "lm", "rounds", str(file), "data.feedback.reward=brevity"])
    assert first.exit_code == 0, first.output
    kept = json.loads((tmp_path / "rounds" / "rounds.json").read_text())
    assert [each["number"] for each in kept["rounds"]] == [1, 2] and kept["ended"] == "all planned rounds were made"
    second = load_config(tmp_path / "rounds" / "round-2" / "config.yaml")
    assert second.model.source == str(tmp_path / "rounds" / "round-1" / "export") and second.train.seed == 1
    before = (tmp_path / "rounds" / "round-2" / "report.html").stat().st_mtime_ns
    meanwhile = []
    again = train_rounds(load_config(file, ("rounds.count=3", "rounds.reference=base")), resume=True, told=lambda each:
                         meanwhile.append(json.loads((tmp_path / "rounds" / "rounds.json").read_text())["ended"]))
    assert meanwhile[1:] == ["1 of 3 rounds were made so far", "2 of 3 rounds were made so far"]
    assert [each.agreement is not None for each in again.rounds] == [True] * 3
    assert (tmp_path / "rounds" / "round-2" / "report.html").stat().st_mtime_ns == before
    page = (tmp_path / "rounds" / "rounds.html").read_text()
    assert "round-3/report.html" in page and "All planned rounds were made." in page and "<th>diversity" not in page
    with pytest.raises(UserError, match="already holds rounds; continue them with --resume"):
        train_rounds(load_config(file))


def test_rewards_name_the_models_of_a_round(recipe):
    config = load_config(recipe("{kind: density_ratio, name: implicit, strong: '{current}', weak: '{previous}'}"))
    third = round_config(config, 3, ["base", "one", "two"], "folder")
    assert third.data.feedback.reward == {"kind": "density_ratio", "name": "implicit", "strong": "two", "weak": "one"}
    assert with_models(["{base}", {"of": "{current}"}], {"{base}": "b", "{current}": "c"}) == ["b", {"of": "c"}]


def a_round(word="healthy", low=0.1):
    change = Estimate(0.2, low, 0.4)
    return Round(1, "round-1", 0.5, change, change, 0.1, None, word, ("why",), 8, None)


def test_rounds_end_where_the_reward_no_longer_rises_or_the_verdict_is_bad(recipe):
    config = load_config(recipe(), ("rounds.stop=true",))
    assert reason_to_stop([a_round()], config) == ""
    assert "did not clearly raise the reward" in reason_to_stop([a_round(low=-0.1)], config)
    assert reason_to_stop([a_round("hacked")], config) == "round 1 is hacked: why"
    only = load_config(recipe(), ("rounds.stop=true", "rounds.count=1"))
    assert reason_to_stop([a_round(low=-0.1)], only) == "all planned rounds were made"


def test_a_pair_counts_as_far_as_two_rewards_rank_alike():
    """Ranks (1, 2, 3, 4) and (1, 3, 2, 4): five of six pairs alike, 0.8333; reversed ones would teach the flipped label
    and count as 1/2."""
    from visalign.data.text_pairs import TextPair
    from visalign.media.answers import Answer
    from visalign.media.samples import Sample

    samples = [Sample("a", Answer(str(i))) for i in range(4)]
    pair = TextPair(({"role": "user", "content": "a"},), "3", "0", "row")
    alike = with_consistency([pair], samples, [1, 2, 3, 4], [1, 3, 2, 4])
    assert alike[0].chance == pytest.approx(5 / 6)
    assert with_consistency([pair], samples, [1, 2, 3, 4], [4, 3, 2, 1])[0].chance == 0.5


@pytest.mark.parametrize(("reply", "points"), [
    ("I give it 3 of 5 points: 4", 4), ("4 points.", 4), ("It has 2 faults, so 12", None), ("none", None),
    ("3.5 points", None), ("0", 0)])
def test_the_last_whole_number_of_a_reply_counts(reply, points):
    assert points_in(reply) == points


def test_an_unreadable_judgement_is_no_score(tiny_lm):
    from visalign.media.answers import Answer
    from visalign.media.samples import Sample

    found = load_reward({"kind": "points", "source": str(tiny_lm), "readings": 2, "max_tokens": 4}).score(
        [Sample("What is rain?", Answer("water"))] * 2)
    for i, value in enumerate(found.values.flatten().tolist()):
        assert value == value or "of 2 readings hold a number" in found.remarks[i]
