"""`visalign data pairs`: generations become a preference set that `train` reads."""

import json
import re

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.data.pair_selection import Candidate
from visalign.jobs.make_pairs import consistency_by_prompt


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def generations(tmp_path):
    """Two prompts with four images each, of growing saturation; a third prompt with two equal ones."""
    root = tmp_path / "made"
    root.mkdir()
    lines = []
    for prompt, greys in (("x", [200, 150, 100, 50]), ("y", [180, 120, 60, 0]), ("z", [90, 90])):
        for i, grey in enumerate(greys):
            Image.new("RGB", (16, 16), (200, grey, grey)).save(root / f"{prompt}{i}.png")
            lines.append(json.dumps({"prompt": prompt, "image": f"{prompt}{i}.png", "seed": i}))
    (root / "samples.jsonl").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], [("x3", "x0"), ("y3", "y0")]),
        (["--strategy", "top_k", "--top", 2], [("x3", "x0"), ("x2", "x1"), ("y3", "y0"), ("y2", "y1")]),
        (["--strategy", "margin", "--min-gap", 0.7], [("x3", "x0"), ("y3", "y0")]),
        (["--strategy", "rso", "--rso-beta", 1e-6], [("x3", "x2"), ("y3", "y2")]),
    ],
)
def test_strategies_choose_ties_are_counted_and_the_sheet_is_drawn(generations, tmp_path, options, expected):
    result = invoke("data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation", *options)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [tuple(row[k].split("/")[-1][:-4] for k in ("chosen", "rejected")) for row in rows] == expected
    assert "1 prompts gave none" in result.output and (tmp_path / "out" / "sheet.png").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["kept"] == len(rows)
    check = invoke("data", "check", tmp_path / "out" / "pairs.parquet", "--sheet", tmp_path / "s.png")
    assert check.exit_code == 0 and f"{len(rows)} pairs" in check.output


def test_a_second_reward_says_how_sure_the_labels_are(generations, tmp_path):
    options = ["-o", tmp_path / "out", "-r", "saturation", "--second-reward", "exposure"]
    result = invoke("data", "pairs", generations, *options)
    assert result.exit_code == 0, result.output
    # distances of the mean luma from 0.5: x 0.284, 0.147, 0.009, 0.128, so that only x2 and x3 change places: 5 of 6
    # pairs agree; y 0.229, 0.065, 0.101, 0.266: 2 of 6, written as 0.5
    assert "exposure ranks 1 of 3 prompts more against saturation than with it" in result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [row["chance"] for row in rows] == pytest.approx([5 / 6, 0.5])
    checked = invoke("data", "check", tmp_path / "out" / "pairs.parquet", "--sheet", tmp_path / "s.png")
    assert checked.exit_code == 0, checked.output


def test_the_chance_is_that_of_the_generations_that_both_have_scored():
    first, second = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 9: 5.0}, {0: 10.0, 1: 30.0, 2: 20.0, 3: 40.0}
    groups = {"x": [Candidate(*each) for each in first.items()], "y": [Candidate(4, 1.0)]}
    chances = consistency_by_prompt(groups, {"x": [Candidate(*each) for each in second.items()]})
    assert chances["x"] == pytest.approx(5 / 6) and chances["y"] != chances["y"]


def test_trade_offs_between_two_rewards_carry_win_rates(generations, tmp_path):
    """x: saturation rises with the number; exposure is 0.284, 0.147, 0.009 and 0.128 from the best. x3 and x2 beat x0
    and x1 by both, and x1 beats x0: fronts {x2, x3} and {x0}."""
    options = ["-o", tmp_path / "out", "-r", "saturation,exposure", "--strategy", "pareto", "--standardise"]
    result = invoke("data", "pairs", generations, *options)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    by_prompt = {row["prompt"]: row for row in rows}
    assert by_prompt["x"]["chosen"][-6:] in ("x2.png", "x3.png") and by_prompt["x"]["rejected"].endswith("x0.png")
    for row in rows:
        assert 0 < row["rejected_reward"] < row["chosen_reward"] < 1
        assert row["strength"] == pytest.approx(row["chosen_reward"] - row["rejected_reward"])
    assert "3 of 3 prompts have fewer than 8 scored generations (the fewest 2)" in result.output
    said = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert said["reward"] == "saturation,exposure" and said["standardise"] is True


def test_one_reward_s_trade_offs_are_its_best_against_its_worst(generations, tmp_path):
    result = invoke("data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation", "--strategy", "pareto",
                    "--top", 3)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [tuple(row[k].split("/")[-1][:-4] for k in ("chosen", "rejected")) for row in rows] == [("x3", "x0"),
                                                                                                 ("y3", "y0")]
    # saturations (200 - g) / 200: 0, .25, .5, .75 of x; mean of s(.25), s(.5), s(.75) = .621265; turned for the worst
    assert rows[0]["chosen_reward"] == pytest.approx(0.621265, abs=2e-3)
    assert rows[0]["rejected_reward"] == pytest.approx(1 - 0.621265, abs=2e-3)


def test_a_tree_of_rewards_asks_the_second_where_the_first_does_not_decide(generations, tmp_path):
    """Saturation differs by 0.25 from one number to the next; with a margin of twice its deviation it decides no pair
    but the first against the last, if that."""
    options = ["-r", "saturation,exposure", "--strategy", "tree", "--top", 9]
    result = invoke("data", "pairs", generations, "-o", tmp_path / "first", *options, "--tree-margin", 0)
    assert result.exit_code == 0 and "saturation decided" in result.output, result.output
    rows = pq.read_table(tmp_path / "first" / "pairs.parquet").to_pylist()
    assert all(row["chosen"][-5] > row["rejected"][-5] and row["strength"] > 0 for row in rows)
    wide = invoke("data", "pairs", generations, "-o", tmp_path / "wide", *options, "--tree-margin", 1.5)
    said = re.search(r"of (\d+) pairs saturation decided (\d+), exposure decided (\d+)", wide.output)
    pairs, by_first, by_second = map(int, said.groups())
    assert pairs == by_first + by_second == pq.read_table(tmp_path / "wide" / "pairs.parquet").num_rows
    assert by_first < len(rows)


def test_sifting_pairs_the_best_winner_with_the_worst_loser(generations, tmp_path):
    result = invoke("data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation", "--strategy", "sifted")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert {row["prompt"] for row in rows} == {"x", "y"} and all(row["chosen"].endswith("3.png") for row in rows)


def test_from_a_model_to_pairs_to_training(recipe, pipelines, tmp_path):
    (tmp_path / "p.txt").write_text("a red fruit\na cat face\n")
    out = tmp_path / "out"
    result = invoke(
        "data",
        "pairs",
        "-o",
        out,
        "--model",
        pipelines("sd3"),
        "--prompts",
        tmp_path / "p.txt",
        "--samples-per-prompt",
        3,
        "--steps",
        2,
        "-r",
        "tiny-clip",
    )
    assert result.exit_code == 0, result.output
    assert len(list((out / "samples").glob("0*.png"))) == 6
    trained = invoke(
        "train",
        recipe(
            "sd3",
            data={"path": str(out / "pairs.parquet"), "holdout": 0.0},
            train={"steps": 1},
            output={"checkpoint_every": 0},
        ),
    )
    assert trained.exit_code == 0, trained.output


@pytest.mark.parametrize(
    "options, word",
    [
        (["--strategy", "margin"], "--min-gap"),
        (["--ranker", "tiny-clip"], "sifted"),
        (["--rso-beta", 1.0], "--rso-beta is for the strategy rso"),
        (["--second-reward", "saturation"], "saturation is the reward itself"),
        (["-r", "saturation,exposure"], "strategy pareto takes several"),
        (["-r", "saturation,exposure", "--strategy", "pareto", "--dimension", "saturation"], "--dimension is of one"),
        (["-r", "saturation,saturation", "--strategy", "pareto"], "saturation is given twice"),
        (["--standardise"], "--standardise is for the strategy pareto"),
        (["--strategy", "pareto", "--min-confidence", 0.9], "--min-confidence compares scores of one reward"),
        (["--strategy", "pareto", "--second-reward", "exposure"], "--second-reward compares scores of one reward"),
        (["--strategy", "pareto", "--engine", "ray"], "strategy pareto compares on one machine"),
        (["--strategy", "pareto", "--min-gap", 0.9], "no pair to train on"),
        (["--tree-margin", 1], "--tree-margin is for the strategy tree"),
        (["--strategy", "tree"], "needs several rewards in the order of their importance"),
        (["--strategy", "tree", "-r", "saturation,exposure", "--engine", "ray"], "strategy tree compares on one"),
        (["--strategy", "tree", "-r", "saturation,emoji_edit"], "emoji_edit"),
        (["--dimension", "style"], "no dimension 'style'"),
        (["--strategy", "sifted", "--ranker", "tiny-clip"], "does not compare"),
        (["--min-gap", 9], "no pair to train on"),
        (["--model", "x", "--prompts", "y"], "give SOURCE"),
    ],
)
def test_mistakes_and_empty_sets_end_in_one_sentence(generations, tmp_path, options, word):
    result = invoke("data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation", *options)
    sentence = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1 and sentence.startswith("visalign: ") and word in sentence


def test_a_ranker_that_cannot_be_reached_stops_with_its_reason(generations, tmp_path):
    (tmp_path / "ranker.yaml").write_text("{kind: vlm_pairs, url: 'http://127.0.0.1:9/v1', retries: 0, cache: null}")
    result = invoke(
        "data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation", "--strategy", "sifted", "--ranker",
        tmp_path / "ranker.yaml",
    )
    sentence = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1 and "cannot be reached" in sentence and "start the server" in sentence


def test_an_existing_set_is_not_overwritten(generations, tmp_path):
    arguments = ("data", "pairs", generations, "-o", tmp_path / "out", "-r", "saturation")
    assert invoke(*arguments).exit_code == 0
    assert "already holds pairs" in invoke(*arguments).output


def strays(tmp_path):
    """Generations of five prompts, spread over all partitions of a folder."""
    root = tmp_path / "spread"
    root.mkdir()
    for i in range(30):
        Image.new("RGB", (16, 16), (200, 7 * i, 200 - 6 * i)).save(root / f"{i:02d}.png")
        (root / f"{i:02d}.txt").write_text(f"prompt {i % 5}")
    return root


@pytest.mark.parametrize("options", [[], ["--strategy", "margin", "--min-gap", "0.02"], ["--strategy", "sifted"]])
def test_a_cluster_makes_the_pairs_of_one_machine(tmp_path, monkeypatch, here, options):
    from visalign.config import DataSettings
    from visalign.data.preferences import read_pairs
    from visalign.jobs import pairs_on_ray

    root = strays(tmp_path)
    local, ray = tmp_path / "local", tmp_path / "ray"
    words = ["data", "pairs", root, "-r", "saturation", "--device", "cpu", *options]
    said = invoke(*words, "-o", local)
    assert said.exit_code == 0, said.output

    def pairs_in(path):
        rows = [pair for pair in read_pairs(DataSettings(path=str(path)))]
        return [(p.prompt, str(p.chosen).split("/")[-1], str(p.rejected).split("/")[-1], p.strength) for p in rows]

    expected = pairs_in(local / "pairs.parquet")
    result = invoke(*words, "-o", ray, "--engine", "ray", "--partition-size", 8)
    assert result.exit_code == 0 and said.stdout.splitlines()[0] == result.stdout.splitlines()[0], result.output
    assert pairs_in(ray / "pairs") == expected and (ray / "sheet.png").exists() and not (ray / "sorted").exists()
    assert invoke(*words, "-o", ray, "--engine", "ray", "--partition-size", 8).exit_code == 1
    monkeypatch.setattr(pairs_on_ray, "BUCKET_ROWS", 10)
    result = invoke(*words, "-o", tmp_path / "buckets", "--engine", "ray", "--partition-size", 8)
    assert result.exit_code == 0 and len(list((tmp_path / "buckets" / "pairs").glob("part-*"))) == 3, result.output
    assert sorted(pairs_in(tmp_path / "buckets" / "pairs")) == sorted(expected)


def test_leaves_of_one_tree_are_paired_and_the_table_says_where_they_parted(pipelines, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
    drawn = ["data", "pairs", "--model", pipelines("sd3"), "--prompts", tmp_path / "prompts.txt", "--set",
             "prompt_tokens=8", "-r", "saturation", "--strategy", "margin", "--min-gap", 1e-9, "--steps", 5,
             "--guidance-scale", 1, "-o", tmp_path / "out", "--samples-per-prompt", 8]
    result = invoke(*drawn, "--branches", "1,3")
    assert result.exit_code == 0, result.output
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples" / "samples.jsonl").read_text().splitlines()]
    leaves = {each["file"]: (each["prompt"], each["leaf"]["tree"], each["leaf"]["number"]) for each in samples}
    assert sorted(set(leaves.values())) == [(prompt, tree, leaf) for prompt in ("a cat face", "a red fruit")
                                            for tree in (0, 1) for leaf in range(4)]
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    counted = [0, 0]
    for row in rows:
        (one, tree, a), (other, same, b) = (leaves[row[side].split("/")[-1]] for side in ("chosen", "rejected"))
        assert (one, tree) == (other, same) and row["prompt"] == one
        assert row["branch"] == (3 if a // 2 == b // 2 else 1)
        counted[row["branch"] == 1] += 1
    assert counted == [8, 16]  # of 4 trees: 2 pairs that part late, 4 that part early
    assert "parted (column branch): 16 of step 1, 8 of step 3" in result.output
    read = invoke("data", "check", tmp_path / "out" / "pairs.parquet", "--sheet", tmp_path / "s.png")
    assert read.exit_code == 0 and "24 pairs" in read.output
    (tmp_path / "out" / "pairs.parquet").unlink()
    other = invoke(*drawn, "--branches", "1,2")
    assert "holds generations that part before 1,3, and --branches names 1,2; choose another OUT" in other.output
    later = invoke("data", "pairs", tmp_path / "out" / "samples", "-r", "saturation", "-o", tmp_path / "more")
    assert later.exit_code == 0 and "branch" in pq.read_table(tmp_path / "more" / "pairs.parquet").column_names


def test_pairs_that_are_drawn_at_random_part_at_other_places_in_other_trees(tmp_path):
    """Two disjoint pairs of each four leaves: of the 3 ways to choose them 1 parts late alone, and 2 early alone."""
    lines = []
    for i in range(48):
        Image.new("RGB", (4, 4), (200, 5 * i, 5 * i)).save(tmp_path / f"{i:02}.png")
        leaf = {"tree": i // 4, "number": i % 4, "branches": [2, 6]}
        lines.append(json.dumps({"prompt": "x", "image": f"{i:02}.png", "leaf": leaf}))
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    result = invoke("data", "pairs", tmp_path, "-r", "saturation", "--strategy", "rso", "--rso-beta", 1e6, "--top", 2,
                    "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    parted = [row["branch"] for row in rows]
    assert len(rows) == 24 and set(parted) == {2, 6} and parted[::2] == parted[1::2]


@pytest.mark.parametrize("branches, more, words", [
    ("2,11", [], "branches 2,11: step 11 is too late for --steps 12"),
    ("6,2", [], "branches 6,2: the steps at which samples part must rise"),
    ("2,6", ["--samples-per-prompt", 6], "6 samples a prompt are no whole number of trees of 4 leaves"),
    ("two", [], "'two' is not whole numbers separated by commas, such as 2,6")])
def test_trees_that_cannot_grow_are_refused_before_a_model_is_loaded(branches, more, words, tmp_path, monkeypatch):
    monkeypatch.setattr("visalign.sampling.folder.load_generator", None)
    (tmp_path / "prompts.txt").write_text("a red fruit\n")
    result = invoke("data", "pairs", "--model", "tiny-sd3", "--prompts", tmp_path / "prompts.txt", "--branches",
                    branches, "--steps", 12, "-o", tmp_path / "out", *more)
    assert result.exit_code and words in " ".join(result.output.split())


def test_branches_are_of_samples_that_are_drawn(generations, tmp_path):
    result = invoke("data", "pairs", generations, "-r", "saturation", "--branches", "1", "-o", tmp_path / "out")
    assert result.exit_code and "SOURCE holds some already" in result.output
