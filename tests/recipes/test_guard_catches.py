"""The guard on a real run of an embedded model: a reward that is hacked ends the run and the weights go back."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "online" / "guarded.yaml"


@pytest.mark.slow
def test_a_saturation_biased_reward_is_called_hacked_and_the_run_goes_back(tmp_path, capsys):
    result = CliRunner().invoke(main, [
        "--debug", "train", str(RECIPE), "reward.models=saturation", "eval.reward=saturation",
        "eval.also=[tiny-reward, tiny-clip]", "eval.max_prompts=8", "eval.samples_per_prompt=2", "train.epochs=4",
        "train.device=cpu", "guard.every=1", "guard.max_prompts=24", f"rollout.cache={tmp_path / 'cache'}",
        "output.trackers=[]", f"output.folder={tmp_path / 'run'}"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [row["verdict"] for row in rows if row["kind"] == "guard"]
    last = {name: look[0] for name, look in looks[-1]["rewards"].items()} | {"diversity": looks[-1]["diversity"][0]}
    with capsys.disabled():
        print(f"\nguard: {', '.join(look['word'] for look in looks)}; {last}")
    assert looks[-1]["word"] == "hacked" and len(looks) < 5
    assert last["diversity"] > -0.3
    assert [row for row in rows if row["kind"] == "held_out"][-1]["folder"].endswith("-returned")
