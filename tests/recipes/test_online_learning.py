"""Online training on an embedded model raises its reward on held-out prompts, with an interval clear of zero."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.evaluators import mean_with_interval

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "online"


@pytest.mark.parametrize("method", ["flow_grpo_fast", pytest.param("nft", marks=pytest.mark.slow)])
def test_the_reward_rises_on_held_out_prompts(method, tmp_path, capsys):
    result = CliRunner().invoke(main, [
        "--debug", "train", str(CONFIGS / f"{method}.yaml"), "reward.models=colourfulness", "train.epochs=2",
        "train.device=cpu", "eval.reward=colourfulness", "eval.max_prompts=24", "eval.samples_per_prompt=2",
        f"rollout.cache={tmp_path / 'cache'}", "output.trackers=[]", f"output.folder={tmp_path / 'run'}"],
        catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before, after = (row for row in rows if row["kind"] == "held_out")
    reward, diversity, scored = (mean_with_interval([b - a for a, b in zip(before["values"][name],
                                                                           after["values"][name],
                                                                         strict=True)])
                               for name in ("reward/colourfulness", "diversity/distance", "reward/tiny-clip"))
    with capsys.disabled():
        print(f"\n{method}: colourfulness {reward}, diversity {diversity}, tiny-clip (not trained on) {scored}")
    assert reward.low > 0
