"""data.strength in the offline loop: labels that a trained reward turns, doubts and measures."""

import json
import shutil

import pytest
import torch

from visalign.data.preference_pair import PreferencePair

from ..commands import UNMEASURED, fails, run, weights

SAID = [(0.05, 2.5), (0.95, -2.0), (0.4, 0.3), (0.6, -0.4), (0.02, 6.0), (None, None)]
"""flip_chance and margin of each of the six pairs."""
OPTIONS = {"eval": UNMEASURED, "objective": {"beta": 2000.0, "margin": 0.5}, "train": {"steps": 2},
           "data": {"holdout": 0.0}}


@pytest.fixture
def table(pairs_file):
    """A function that writes the six pairs with further columns, or turned, and gives the file."""
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    turned = {"chosen": "rejected", "rejected": "chosen", "chosen_reward": "rejected_reward",
              "rejected_reward": "chosen_reward"}

    def write(name, columns, turn=()):
        file = pairs_file.with_name(name)
        file.write_text("\n".join(json.dumps({
            turned.get(key, key) if number in turn else key: value for key, value in row.items()} | more)
            for number, (row, more) in enumerate(zip(lines, columns, strict=True))))
        return file

    write("annotated.jsonl", [{"flip_chance": chance, "margin": margin} for chance, margin in SAID])
    return write


def ended(recipe, folder, file, **data):
    run(recipe("sd3", name=f"{folder.name}.yaml", output={"folder": str(folder)}, **OPTIONS | {
        "data": OPTIONS["data"] | {"path": str(file)} | data}))
    return weights(folder, 2)


@pytest.mark.parametrize("strength, columns, turn", [
    ({"flip": 0.9}, [{"strength": s} for s in (2.5, 2.0, 0.3, 0.0, 3.0, 1.0)], (1,)),
    ({"flip": 0.9, "soft": True, "most": 9.0}, [{"strength": s, "chance": c} for s, c in (
        (2.5, 0.95), (2.0, 0.95), (0.3, 0.6), (0.0, 0.5), (6.0, 0.98), (1.0, 1.0))], (1,)),
    ({"smooth": 0.1}, [{"strength": s, "chance": c} for s, c in (
        (2.5, 1.0), (0.0, 0.9), (0.3, 1.0), (0.0, 0.9), (3.0, 0.9), (1.0, 1.0))], ())])
def test_a_run_is_that_of_a_table_written_by_hand(recipe, table, tmp_path, strength, columns, turn):
    mine = ended(recipe, tmp_path / "mine", tmp_path / "annotated.jsonl", strength=strength)
    by_hand = ended(recipe, tmp_path / "by-hand", table("by-hand.jsonl", columns, turn))
    assert all(torch.equal(mine[name], by_hand[name]) for name in mine)


def test_without_it_the_columns_change_nothing(recipe, table, tmp_path, pairs_file):
    plain = ended(recipe, tmp_path / "plain", pairs_file)
    beside = ended(recipe, tmp_path / "beside", tmp_path / "annotated.jsonl")
    assert all(torch.equal(plain[name], beside[name]) for name in plain)


def test_it_is_said_and_a_killed_run_continues_to_the_same_bits(recipe, table, tmp_path):
    options = OPTIONS | {"train": {"steps": 4}, "data": {
        "path": str(tmp_path / "annotated.jsonl"), "holdout": 0.0, "strength": {"flip": 0.9, "smooth": 0.1}}}
    said = run(recipe("sd3", name="whole.yaml", output={"folder": str(tmp_path / "whole")}, **options)).output
    assert "1 of 6 pairs, whose flip_chance is at least 0.9, are turned round" in said
    assert "1 of 6 pairs, which the reward could not score, stay as they are" in said
    cut = recipe("sd3", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes, said", [
    ({"method": "sft"}, "data.strength: objective sft compares no two samples"),
    ({"method": "flow_rwr"}, "objective flow_rwr learns from each sample's own reward, so that turning"),
    ({"objective": {"soft_labels": 1.0}, "strength": {"soft": True}}, "objective.soft_labels: doubts labels"),
    ({"file": "pairs.jsonl"}, "has no column 'flip_chance', which data.strength reads"),
    ({"method": "mapo", "file": "pairs.jsonl"}, "has no column 'flip_chance'")])
def test_where_it_says_nothing_or_cannot_be_read_it_is_refused(recipe, table, tmp_path, changes, said):
    message = fails(recipe("sd3", changes.get("method"), objective=changes.get("objective", {}), data={
        "path": str(tmp_path / changes.get("file", "annotated.jsonl")),
        "strength": changes.get("strength", {"flip": 0.9})}))
    assert said in message


def test_clear_pairs_count_with_a_larger_beta(recipe, table, tmp_path):
    """strength 0 for all is the run without it, to the bit; a very large one for all is the run with 1.5 beta."""
    def trained(name, column, **objective):
        data = {"holdout": 0.0, "path": str(table(f"{name}.jsonl", [column] * 6))}
        done = run(recipe("sd3", name=f"{name}.yaml", output={"folder": str(tmp_path / name)}, **OPTIONS | {
            "data": data, "objective": objective}))
        assert ("all pairs have the same strength" in done.output) == ("strength_beta" in objective)
        return weights(tmp_path / name, 2)

    plain = trained("plain", {"strength": 0.0}, beta=200.0)
    unclear = trained("unclear", {"strength": 0.0}, beta=200.0, strength_beta=0.5)
    assert all(torch.equal(plain[name], unclear[name]) for name in plain)
    clear, larger = trained("clear", {"strength": 1e4}, beta=200.0, strength_beta=0.5), trained(
        "larger", {"strength": 0.0}, beta=300.0)
    for name in clear:
        torch.testing.assert_close(clear[name], larger[name], atol=1e-6, rtol=1e-4)
    assert not all(torch.equal(plain[name], clear[name]) for name in plain)


def test_a_pair_that_is_swapped_keeps_what_the_reward_said():
    pair = PreferencePair("p", "a", "b", "w", strength=2.0, label_margin=2.0, turned=True)
    assert pair.swapped().label_margin == 2.0 and pair.swapped().strength == 2.0
