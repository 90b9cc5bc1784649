"""The planted worlds of the comparison of rewards: what is planted is there; trainings themselves are run by hand."""

import numpy as np
import pytest

from visalign.config import RewardConfig


@pytest.fixture
def trials():
    import reward_trials

    return reward_trials


@pytest.fixture
def proof():
    import prove_rewards

    return prove_rewards


def right(row, rows):
    """Whether a row names the side that the clean one of the same place names."""
    return row["quality"] == rows["quality"]


def test_nothing_is_learnt_from_prompts_that_are_held_out_and_every_way_is_a_training(trials, proof, tmp_path):
    for world in trials.REWARD_WORLDS.values():
        sources, held_out = world.build(0)
        assert min(map(len, [*sources, held_out])) > 20
        learnt = {row["prompt"] for rows in sources for row in rows}
        assert not learnt & {row["prompt"] for row in held_out}
        again, _ = world.build(0)
        assert again == sources
        for way in (world.control, *world.ways.values()):
            files = [tmp_path / f"{number}.parquet" for number in range(len(sources))]
            assert isinstance(proof.settings_of(way, 10, files, tmp_path / "h", 0, tmp_path / "run"), RewardConfig)


def test_flips_are_as_many_as_planted_and_others_with_another_seed(trials):
    [clean], held = trials.flipped_world(0.0, 0)
    for share in (0.2, 0.4):
        [one], same = trials.flipped_world(share, 0)
        [other], _ = trials.flipped_world(share, 1)
        wrong = np.array([[not right(row, truth) for row, truth in zip(rows, clean, strict=True)]
                          for rows in (one, other)])
        assert same == held and wrong.mean(1) == pytest.approx(share, abs=0.05) and (wrong[0] != wrong[1]).any()
    assert np.mean([row["quality"] == "a" for row in clean]) == pytest.approx(0.5, abs=0.05)


def test_each_half_is_annotated_by_a_reward_of_the_other(trials, proof, tmp_path):
    [rows], held_out = trials.flipped_world(0.2, 0)
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))[:10]
    rows = [row for row in rows if row["prompt"] in prompts]
    files = [proof.table_of(part, tmp_path / f"{name}.parquet") for name, part in (("t", rows), ("h", held_out[:8]))]
    config = proof.settings_of(trials.PLAIN, 2, files[:1], files[1], 0, tmp_path)
    found = proof.pq.read_table(proof.cross_annotated(files[0], config, tmp_path)).to_pylist()
    assert len(found) == len(rows) and {row["source"] for row in found} == {"t-half-0", "t-half-1"}
    assert all(len({row["source"] for row in found if row["prompt"] == prompt}) == 1 for prompt in prompts)


def test_of_two_files_the_small_one_is_right(trials):
    (small, large), _ = trials.sources_world(0)
    [clean], _ = trials.flipped_world(0.0, 0)
    truth = {(row["prompt"], row["a"], row["b"]): row["quality"] for row in clean}
    wrong = [np.mean([row["quality"] != truth[row["prompt"], row["a"], row["b"]] for row in rows])
             for rows in (small, large)]
    assert wrong[0] == 0 and wrong[1] == pytest.approx(0.4, abs=0.05) and 3.5 < len(large) / len(small) < 4.5


def test_brightness_goes_with_what_is_better_in_training_alone(trials):
    [train], held_out = trials.biased_world(0)
    shares = [np.mean([row["kind"] == trials.BRIGHTER for row in rows]) for rows in (train, held_out)]
    assert shares[0] == pytest.approx(0.9, abs=0.04) and shares[1] == pytest.approx(0.5, abs=0.1)


def test_of_few_people_of_another_taste_there_are_few_pairs(trials):
    [train], held_out = trials.voters_world(0, smaller=1)
    assert len({row["user"] for row in train}) == 5
    assert np.mean([row["kind"] == trials.SMALL for row in train]) == pytest.approx(0.2, abs=0.05)
    assert {row["kind"] for row in held_out} == {trials.LARGE, trials.SMALL}


def test_the_table_shows_each_way_beside_its_control(proof, tmp_path):
    import json

    for seed in (0, 1):
        for way, margins in (("control", [1.0, -1.0, 1.0, -1.0]), ("decorrelated", [1.0, 2.0, 1.0, -1.0])):
            with (tmp_path / "runs.jsonl").open("a") as file:
                file.write(json.dumps({"world": "bias", "way": way, "seed": seed, "margins": margins,
                                       "prompts": ["p", "p", "q", "q"], "kinds": ["x", "y", "x", "y"]}) + "\n")
    lines = proof.table(tmp_path).splitlines()
    assert len(lines) == 4 and "| Bradley-Terry | 0.500 [" in lines[2] and "x: 1.000" in lines[2]
    assert "0.750 [" in lines[3] and "+0.250 [" in lines[3] and "y: 0.500" in lines[3]
