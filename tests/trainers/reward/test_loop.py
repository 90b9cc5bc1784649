"""Training the unified reward through the command line: it learns, resumes to the same weights, and is reported on."""

import importlib.util
import json
import os
import shutil
import signal
import time

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from tests.programs import Program
from visalign.cli import main
from visalign.media.samples import Sample, Video
from visalign.media.video_files import to_video_bytes
from visalign.rewards import load_reward
from visalign.trainers.reward.loop import bootstrap_weight

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 70), "yellow": (240, 210, 40)}


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", *map(str, arguments)])


@pytest.fixture
def table(tmp_path):
    """Squares: the right colour is aligned, a speckled one is of low quality; videos that move, and frozen ones."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from visalign.media.samples import to_bytes

    rng, rows = np.random.default_rng(0), []
    for i in range(48):
        name, other = list(COLOURS)[i % 4], list(COLOURS)[(i + 1 + i // 4 % 3) % 4]
        right, wrong = (Image.new("RGB", (64, 64), COLOURS[c]) for c in (name, other))
        noisy = Image.fromarray((np.asarray(right) * 0.5 + rng.integers(0, 128, (64, 64, 3))).astype(np.uint8))
        swap = i % 2
        pair = [("alignment", right, wrong), ("quality", right, noisy)][i // 2 % 2]
        if i % 6 == 5:
            still = [Image.new("RGB", (64, 64), "white")] * 4
            moving = [frame.copy() for frame in still]
            for t, frame in enumerate(moving):
                frame.paste(COLOURS[name], (10 * t, 20, 10 * t + 20, 40))
            pair = ("motion", *(Video(f, 4.0) for f in (moving, [moving[1]] * 4)))
        data = [to_video_bytes(m, "matroska") if isinstance(m, Video) else to_bytes(m) for m in pair[1:]]
        rows.append(
            {
                "prompt": f"a {name} square {i % 5}",
                "a": data[swap],
                "b": data[1 - swap],
                **{d: None for d in ("alignment", "quality", "motion")},
                pair[0]: "ba"[1 - swap] if swap == 0 else "b",
                "kind": pair[0],
                "strength": 1.0,
            }
        )
    file = tmp_path / "annotations.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.fixture
def recipe(tmp_path, table):
    def write(name="reward.yaml", **sections):
        content = {
            "model": {
                "source": "tiny-clip",
                "tuning": "frozen",
                "dimensions": ["alignment", "quality", "motion"],
                "layers": [1],
                "width": 16,
                "members": 2,
                "frames": 4,
            },
            "data": {"path": str(table), "holdout": 0.3},
            "objective": {"name": "preference", "ties": "rao_kupper"},
            "optim": {"lr": 0.003},
            "train": {"steps": 6, "batch_size": 6, "precision": "fp32", "device": "cpu"},
            "output": {"folder": str(tmp_path / "run"), "checkpoint_every": 2, "trackers": []},
        }
        for section, values in sections.items():
            content[section] = content[section] | values
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write


def weights(folder):
    return load_file(folder / "reward" / "reward.safetensors")


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_training_changes_every_part_that_should_learn_and_nothing_else(recipe, tmp_path, tuning):
    from visalign.config import RewardConfig
    from visalign.config.load import load_config
    from visalign.rewards.joint.reward import build_network

    file = recipe(model={"tuning": tuning}, train={"steps": 3}, optim={"lr": 0.01, "weight_decay": 0.0})
    result = invoke("train", file)
    assert result.exit_code == 0, result.output
    torch.manual_seed(0)
    before = dict(build_network(load_config(file, (), RewardConfig).model).named_parameters())
    after = weights(tmp_path / "run")
    assert after.keys() == {name for name, p in before.items() if p.requires_grad}
    still = [name for name, value in after.items() if torch.equal(value, before[name].detach())]
    unused = ("logit_scale", "backbone.pool.shallow")  # open_clip's own temperature takes no part
    assert not [name for name in still if not any(word in name for word in unused)], still


def test_it_learns_what_the_labels_say_and_is_usable_by_its_folder(recipe, tmp_path):
    result = invoke(
        "train",
        recipe(),
        "train.steps=60",
        "train.batch_size=12",
        "data.holdout=0",
        "model.width=32",
        f"data.holdout_path={tmp_path / 'annotations.parquet'}",
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "eval" / "eval.json").read_text())["dimensions"]
    assert report["quality"]["overall"]["accuracy"][0] > 0.9 and report["motion"]["overall"]["accuracy"][0] > 0.9
    page = (tmp_path / "run" / "eval" / "report.html").read_text()
    assert "Calibration" in page and "JPEG, quality 95" in page and "data:image/svg+xml" in page
    reward = load_reward(str(tmp_path / "run"))  # the run's name is the reward's
    assert reward.name == "run"
    clean = Image.new("RGB", (64, 64), COLOURS["red"])
    noisy = Image.effect_noise((64, 64), 120).convert("RGB")
    values = reward.score([Sample("a red square", clean), Sample("a red square", noisy)]).values
    assert values[0, 1] > values[1, 1]


@pytest.mark.parametrize("objective", [{}, {"forward_rate": "learn"}], ids=["plain", "forward"])
def test_a_killed_training_continues_to_the_same_weights(recipe, tmp_path, objective):
    whole = recipe("whole.yaml", objective=objective, output={"folder": str(tmp_path / "whole")})
    assert invoke("train", whole).exit_code == 0
    cut = recipe("cut.yaml", objective=objective, output={"folder": str(tmp_path / "cut")})
    code = (
        "import sys, time; from visalign.trainers.reward.loop import RewardTrainer as T; learn = T.train_unit\n"
        "T.train_unit = lambda self, *given: (time.sleep(0.3), learn(self, *given))[1]\n"
        "from visalign.cli import main; main(['reward', 'train', sys.argv[1]])"
    )
    process = Program(code, cut, output=tmp_path / "said")
    started = time.time()
    while not list((tmp_path / "cut" / "checkpoints").glob("step-00000002/state.json")) and time.time() - started < 120:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "reward").exists()
    assert "already holds a run" in invoke("train", cut).output
    assert invoke("train", cut, "--resume").exit_code == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    shares = [[json.loads(line).get("forward_rate") for line in (tmp_path / name / "metrics.jsonl").open()][-1]
              for name in ("whole", "cut")]
    assert shares[0] == shares[1] and (shares[0] is None) == (not objective)


@pytest.mark.parametrize("engine", [
    pytest.param({}, id="ddp"), pytest.param({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, id="fsdp2"),
    pytest.param({"ACCELERATE_USE_DEEPSPEED": "true"}, id="zero2", marks=pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="needs visalign[deepspeed]"))])
def test_two_processes_learn_what_one_does_with_twice_the_batch(recipe, tmp_path, two_processes, engine):
    settings = {"train": {"steps": 3, "bootstrap": True}}
    noise = {"ties": "drop", "peer_filter": 0.4, "forward_rate": "learn"}
    one = recipe(
        "one.yaml",
        output={"folder": str(tmp_path / "one")},
        train=settings["train"] | {"batch_size": 6},
        objective=noise,
        data={"holdout": 0.0},
    )
    two = recipe(
        "two.yaml",
        output={"folder": str(tmp_path / "two")},
        train=settings["train"] | {"batch_size": 3},
        objective=noise,
        data={"holdout": 0.0},
    )
    assert invoke("train", one).exit_code == 0
    two_processes(f"import os, sys\nos.environ |= {engine}\nfrom visalign.cli import main\nmain(sys.argv[1:])\n",
                  "reward", "train", two)
    assert bool(list(tmp_path.glob("two/checkpoints/*/shard-*"))) == ("ACCELERATE_USE_FSDP" in engine)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["processes"] == 2
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    worst = max((a[name] - b[name]).abs().max().item() for name in a)
    assert worst < 1e-3  # 0.018 where each process averages over its own labels


def test_users_of_ideal_points_are_learnt_and_a_killed_training_would_go_on_with_them(recipe, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "annotations.parquet")
    users = pa.array([f"name {i % 3}" if i else None for i in range(len(rows))])
    pq.write_table(rows.append_column("user", users), tmp_path / "users.parquet")
    own = {"ideal_points": {"prototypes": 2, "size": 4, "dropout": 0.3, "reseed": 2}}
    whole = recipe("whole.yaml", model=own, data={"path": str(tmp_path / "users.parquet")})
    result = invoke("train", whole)
    assert result.exit_code == 0, result.output
    saved = (tmp_path / "run" / "reward" / "reward.json").read_text()
    assert "name 1" not in saved and json.loads(saved)["users"]["learnt"] == 3
    table = weights(tmp_path / "run")["heads.weights"]
    assert table.shape == (3, 2, 3, 2)
    two = recipe("two.yaml", model=own, data={"path": str(tmp_path / "users.parquet")},
                 output={"folder": str(tmp_path / "again")})
    assert invoke("train", two, "train.steps=6").exit_code == 0
    for checkpoint in sorted((tmp_path / "again" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    shutil.rmtree(tmp_path / "again" / "reward")
    assert invoke("train", two, "--resume").exit_code == 0
    again = weights(tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in weights(tmp_path / "run").items())


def test_groups_of_users_are_found_again_by_a_training_that_was_killed(recipe, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "annotations.parquet")
    users = pa.array([f"name {i % 5}" for i in range(len(rows))])
    pq.write_table(rows.append_column("user", users), tmp_path / "users.parquet")
    given = {"model": {"groups": {"count": 3}}, "data": {"path": str(tmp_path / "users.parquet")},
             "objective": {"ties": "drop"}, "train": {"bootstrap": False}}
    assert invoke("train", recipe("whole.yaml", **given)).exit_code == 0
    whole = weights(tmp_path / "run")
    assert whole["heads.fits.seen"].bool().all() and whole["heads.fits.fit"].shape == (5, 2, 3)
    saved = (tmp_path / "run" / "reward" / "reward.json").read_text()
    assert whole["heads.fits.pairs"].sum() == json.loads(saved)["trained on"]["annotations"] and "name 1" not in saved
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [row["accuracy"] for row in rows if "accuracy" in row]  # of each pair's own groups
    assert len(told) == 6 and all(0 <= each <= 1 for each in told)
    two = recipe("two.yaml", **given, output={"folder": str(tmp_path / "again")})
    assert invoke("train", two).exit_code == 0
    for checkpoint in sorted((tmp_path / "again" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    shutil.rmtree(tmp_path / "again" / "reward")
    assert invoke("train", two, "--resume").exit_code == 0
    again = weights(tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_table_of_users_is_not_divided(recipe, monkeypatch):
    monkeypatch.setattr("visalign.jobs.reward_train.is_sharded_run", lambda: True)
    result = invoke("train", recipe(model={"ideal_points": {}}))
    assert result.exit_code == 1 and "model.ideal_points: its table of users was not tried in parts" in result.output


@pytest.mark.parametrize("head", [{"ideal_points": {"prototypes": 2, "size": 4, "reseed": 2}}, {"groups": {}}])
def test_two_processes_learn_users_as_one_does_with_twice_the_batch(recipe, tmp_path, two_processes, head):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "annotations.parquet")
    users = pa.array([f"name {i % 3}" for i in range(len(rows))])
    pq.write_table(rows.append_column("user", users), tmp_path / "users.parquet")
    given = {"model": head, "objective": {"ties": "drop"},
             "data": {"path": str(tmp_path / "users.parquet"), "holdout": 0.0}}
    train = {"steps": 3, "bootstrap": "groups" not in head}
    one, two = (recipe(f"{name}.yaml", **given, train=train | {"batch_size": size},
                       output={"folder": str(tmp_path / name)}) for name, size in (("one", 6), ("two", 3)))
    assert invoke("train", one).exit_code == 0
    two_processes("import sys\nfrom visalign.cli import main\nmain(sys.argv[1:])\n", "reward", "train", two)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    # a bias of keys changes no attention, so Adam makes steps of what its gradient is rounded by
    told = [name for name in a if not name.endswith("in_proj_bias")]
    assert max((a[name] - b[name]).abs().max().item() for name in told) < 1e-3


def test_comparisons_go_on_from_ratings(tmp_path, recipe):
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    names = list(COLOURS)
    rows = [{"prompt": f"a thing {i % 5}", "a": f"{names[i % 4]}.png", "b": f"{names[(i + 1 + i // 4 % 3) % 4]}.png",
             "quality": "a" if i % 4 < (i + 1 + i // 4 % 3) % 4 else "b", "strength": 1 + i % 3,
             "quality_a": i % 4 / 2, "quality_b": (i + 1 + i // 4 % 3) % 4 / 2} for i in range(24)]
    (tmp_path / "rated.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"path": str(tmp_path / "rated.jsonl"), "holdout": 0.0}
    first = recipe("first.yaml", data=data, objective={"preference_weight": 0.0, "rating_weight": 1.0})
    assert invoke("train", first, f"output.folder={tmp_path / 'ratings'}").exit_code == 0
    content = yaml.safe_load(recipe("next.yaml", data=data, objective={"scaled": True}).read_text())
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(content | {"model": {"source": str(tmp_path / "ratings")}}))
    assert invoke("train", tmp_path / "next.yaml", "train.steps=1", "optim.lr=1e-9").exit_code == 0
    before, after = weights(tmp_path / "ratings"), weights(tmp_path / "run")
    assert before.keys() == after.keys() and all((before[name] - after[name]).abs().max() < 1e-7 for name in before)
    saved = json.loads((tmp_path / "run" / "reward" / "reward.json").read_text())
    assert saved["started from"] == str(tmp_path / "ratings") and saved["model"]["layers"] == [1]
    result = invoke("train", tmp_path / "next.yaml", "model.width=96", f"output.folder={tmp_path / 'x'}")
    assert result.exit_code == 1 and "leave model.width out" in result.output


def test_single_items_with_good_and_bad_labels_train(tmp_path, recipe):
    lines = []
    for i, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
        lines.append(json.dumps({"prompt": f"{name} {i}", "media": f"{name}.png", "quality": ["good", "bad"][i % 2]}))
    (tmp_path / "single.jsonl").write_text("\n".join(lines))
    result = invoke(
        "train",
        recipe(
            data={"path": str(tmp_path / "single.jsonl"), "holdout": 0.0},
            objective={"ties": "win_tie", "rating_weight": 1.0, "rating_loss": "bce"},
        ),
    )
    assert result.exit_code == 0, result.output


def test_eval_takes_any_reward_and_says_which_dimension_scored(table, tmp_path):
    result = invoke("eval", "tiny-clip", table, "-o", tmp_path / "eval", "--no-edits")
    assert result.exit_code == 0, result.output
    assert "alignment" in result.output and "scored by alignment" in (tmp_path / "eval" / "report.html").read_text()


@pytest.mark.parametrize(
    "overrides, word",
    [
        (["model.source=/nowhere"], "/nowhere"),
        (["objective.tie=drop"], "ties"),
        (["model.widht=3"], "width"),
        (["data.path=nowhere.parquet"], "nowhere.parquet"),
        (["objective.name=flow_dpo"], "preference"),
        (["data.holdout=0.9999"], "nothing to train on"),
        (["model.dimensions=[style]"], "video_only"),
        (["objective.peer_filter=0.3", "model.members=1"], "model.members 1"),
        (["objective.peer_filter=1"], "objective.peer_filter is 1: it must be below 1"),
        (["objective.name=general", "objective.ties=drop"], "takes embeddings, and the head scalar gives rewards"),
        (["model.general.blocks=2", "model.dimensions=[quality]", "model.video_only=[]"],
         "takes rewards, and the head general gives embeddings"),
        (["model.ideal_points.prototypes=2"], "says whose it is"),
        (["model.ideal_points.prototypes=1"], "model.ideal_points.prototypes is 1: it must be at least 2"),
        (["model.ideal_points.distance=far"], "model.ideal_points.distance"),
    ],
)
def test_mistakes_end_in_one_sentence(recipe, overrides, word):
    result = invoke("train", recipe(), *overrides)
    assert result.exit_code == 1 and word in result.output and result.output.startswith("visalign: ")


def test_a_broken_image_in_the_data_names_its_row(tmp_path, recipe):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nope")
    (tmp_path / "j.jsonl").write_text(json.dumps({"prompt": "p", "a": "a.png", "b": "b.png", "quality": "a"}))
    result = invoke("train", recipe(data={"path": str(tmp_path / "j.jsonl"), "holdout": 0.0}))
    assert result.exit_code == 1 and "line 1" in result.output and "b.png" in result.output


def test_a_set_of_ties_only_is_reported_without_accuracy(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    rows = [{"prompt": f"p{i}", "a": "a.png", "b": "a.png", "alignment": "tie"} for i in range(3)]
    (tmp_path / "j.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = invoke("eval", "tiny-clip", tmp_path / "j.jsonl", "-o", tmp_path / "eval")
    assert result.exit_code == 0, result.output
    assert "scored by alignment, 0 not scored" in result.output and (tmp_path / "eval" / "report.html").exists()


def test_bootstrap_weights_have_mean_one_differ_by_member_and_repeat():
    weights = torch.stack([bootstrap_weight(i, 4, 7) for i in range(4000)])
    assert weights.mean(0).sub(1).abs().max() < 0.08 and torch.equal(weights[5], bootstrap_weight(5, 4, 7))
    assert (weights[:, 0] != weights[:, 1]).float().mean() > 0.4


def test_debias_fits_and_prints_correlations(tmp_path):
    import numpy as np

    rng, root = np.random.default_rng(0), tmp_path / "m"
    root.mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 1 + 4 * i, (16, 16, 3)).astype(np.uint8)).save(root / f"{i}.png")
    result = invoke("debias", "contrast", root, "-o", tmp_path / "bias.json")
    assert result.exit_code == 0, result.output
    assert "brightness" in result.output and "60 samples" in result.output
    reward = load_reward({"kind": "debiased", "of": ["contrast"], "model": str(tmp_path / "bias.json")})
    assert reward.score([Sample("x", Image.new("RGB", (16, 16), "gray"))]).values.isfinite().all()
