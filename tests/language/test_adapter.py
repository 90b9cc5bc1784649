"""The whole of `lm adapt` on a tiny random language model and a tiny random pipeline, and `generate --rewrite`."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.language.adapter import AdaptRun, adapt, check_adapt

RECIPE = """
loop: adapt
model: {{source: {lm}, lora: {{rank: 2, alpha: 4}}}}
prompts: {folder}/asked.txt
generator:
  model: {{source: {generator}, resolution: 16, prompt_tokens: 77, attention: math}}
  steps: 1
  guidance_scale: 1.0
reward: {{models: [colourfulness, {{reward: sharpness, weight: 0.5}}]}}
rewrite: {{max_tokens: 6}}
gate: {{similarity: -1.0, max_words: 8}}   # a random model's rewrites pass, so that there are pairs
evolve: {{rounds: 1, per_round: 2, max_tokens: 6}}
sft: {{optim: {{lr: 1.0e-2}}, train: {{steps: 2, batch_size: 2}}}}
dpo: {{candidates: 2, train: {{steps: 2, batch_size: 2}}}}
eval: {{prompts: {folder}/held.txt, samples_per_prompt: 2, also: [contrast], features: tiny-clip}}
output: {{folder: {folder}/run}}
"""


def write_recipe(tiny_lm: Path, generator: Path, tmp_path: Path) -> Path:
    (tmp_path / "asked.txt").write_text("a drawing of red fruit, please\ncould you draw a blue bird?\na green tree\n")
    (tmp_path / "held.txt").write_text("please draw a black cat for me\na drawing of pink heart, please\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(lm=tiny_lm, generator=generator, folder=tmp_path))
    return file


@pytest.fixture
def adapt_recipe(tiny_lm, pipelines, tmp_path):
    return write_recipe(tiny_lm, pipelines("sd3"), tmp_path)


@pytest.fixture(scope="module")
def whole(tiny_lm, pipelines, tmp_path_factory):
    """The folder in which a run lies, finished, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, typed(f"lm adapt {write_recipe(tiny_lm, pipelines('sd3'), folder)}")


def typed(command: str) -> str:
    result = CliRunner().invoke(main, ["--debug", *shlex.split(command)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def rows_in(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_all_stages_and_the_use_of_what_was_learnt(whole, pipelines, tmp_path):
    folder, said = whole
    run = folder / "run"
    assert "gain over best of 2 seeds, the user's prompt (equal renders: best of 2 on both sides)" in said
    tried = rows_in(run / "evolve" / "round-1.jsonl")
    assert {"red fruit", "blue bird"} <= {row["rewrite"] for row in tried}
    assert json.loads((run / "evolve" / "llm-1.json").read_text()) == {
        "answers": 6, "in_format": 0, "prompts_skipped": 3}  # noise holds no <PROMPT>: three asked, three asked again
    assert json.loads((run / "stages.json").read_text())["dpo"]["pairs"] > 0
    assert [row["step"] for row in rows_in(run / "dpo" / "metrics.jsonl") if row["kind"] == "train"] == [1, 2]
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") == 8 and "please draw a black cat for me" in page  # two prompts, four ways
    keys = [row["key"] for row in rows_in(run / "renders.jsonl")]
    assert len(keys) == len(set(keys)) and {row["prompt"] for row in rows_in(run / "scores.jsonl")} == set(
        (folder / "asked.txt").read_text().splitlines())  # rewards saw what users wrote

    told = typed(f"generate {pipelines('sd3')} 'a red cat, please' --set resolution=16 --steps 1 "
                 f"--samples-per-prompt 1 --rewrite {run} -o {tmp_path / 'out'}")
    row, = rows_in(tmp_path / "out" / "samples.jsonl")
    assert row["prompt"] == "a red cat, please" and row["fell_back"] is None and row["rewrite"] != row["prompt"]
    assert f"a red cat, please\n  {row['rewrite']}\n0 of 1 rewrites fell back" in told


def test_a_run_that_is_killed_between_stages_ends_with_the_same_bits(whole, adapt_recipe, tmp_path, monkeypatch):
    parts, ours, theirs = load_config(adapt_recipe), tmp_path / "run", whole[0] / "run"
    for resume, stage in enumerate(("imitated", "compared", "measured")):
        with monkeypatch.context() as patch:
            patch.setattr(AdaptRun, stage, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                adapt(parts, resume=bool(resume))
    _, found = adapt(parts, resume=True)
    weights = [load_file(run / "export" / "adapter_model.safetensors") for run in (theirs, ours)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for file in ("renders.jsonl", "scores.jsonl", "held_out/scores.jsonl", "candidates.jsonl", "stages.json"):
        assert (theirs / file).read_text() == (ours / file).read_text(), file
    assert found["rows"] == json.loads((theirs / "measures.json").read_text())["rows"]


def test_floors_that_nobody_passes_end_the_run_before_anything_is_learnt(adapt_recipe, tmp_path):
    with pytest.raises(UserError, match=r"reward.floors: none of \d+ rewrites passes colourfulness at least 1e\+06 "
                                        r"\(the best rewrite has [\d.]+\); take lower floors"):
        adapt(load_config(adapt_recipe, ("reward.floors={colourfulness: 1.0e6}", "evolve.llm=false")))
    assert not (tmp_path / "run" / "sft").exists()


def test_a_reward_that_scores_no_held_out_prompt_is_said_before_anything_is_learnt(adapt_recipe, tmp_path):
    with pytest.raises(UserError, match="eval: reward tiny-group scores none of the 4 renders of the held-out prompts"):
        adapt(load_config(adapt_recipe, ("eval.also=[tiny-group]", "reward.max_failures=1")))
    assert not (tmp_path / "run" / "evolve").exists()


@pytest.mark.parametrize(("overrides", "words"), [
    (("generator.model.source=nowhere",), "nowhere"),
    (("model.source=nowhere",), "model.source nowhere: there is no such folder"),
    (("reward.floors={colorfulness: 1}",), r"reward.floors.colorfulness: .*did you mean 'colourfulness'"),
    (("dpo.objective={name: sft}",), "dpo.objective sft: learns from chosen answers alone"),
    (("dpo.train.trl={beta: 1}",), "train.trl.beta: is decided by objective.beta"),
    (("eval.also=[colourfulness]",), "names colourfulness, sharpness, colourfulness are not distinct"),
    (("reward.models=[brevity]",), "reward brevity: scores texts only"),
    (("eval.features=sharpness",), "eval.features sharpness"),
    (("gate.encoder=nowhere",), "gate.encoder: nowhere is neither minilm nor a folder"),
])
def test_what_cannot_be_is_said_before_a_model_is_loaded(adapt_recipe, overrides, words):
    with pytest.raises(UserError, match=words):
        check_adapt(load_config(adapt_recipe, overrides))


def test_prompts_that_are_measured_are_not_learnt_from(adapt_recipe, tmp_path):
    (tmp_path / "held.txt").write_text("a green tree\n")
    assert "a green tree" not in check_adapt(load_config(adapt_recipe)).prompts
    with pytest.raises(UserError, match="every prompt is among eval.prompts"):
        check_adapt(load_config(adapt_recipe, (f"eval.prompts={tmp_path / 'asked.txt'}",)))


RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "language").glob("adapt_*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_shipped_recipes_are_sound(file):
    plan = check_adapt(load_config(file))
    assert len(plan.prompts) == 48 and len(plan.measured) == 24 and not {*plan.prompts} & {*plan.measured}


def test_videos(tiny_lm, pipelines, tmp_path):
    """The recipe of videos on a tiny model and a tiny pipeline, of one prompt; and videos of a rewritten prompt."""
    folder, wan = tmp_path / "run", pipelines("wan")
    small = ("evolve={rounds: 1, per_round: 1, llm: false}", "max_prompts=2", "gate={similarity: -1, max_words: 100}",
             "eval={prompts: polite-videos:held_out, max_prompts: 2, samples_per_prompt: 2}",
             "sft={train: {steps: 1, batch_size: 2}}", "dpo={candidates: 2, train: {steps: 1, batch_size: 2}}",
             "reward.models=[prompt_motion, colourfulness]", "generator.steps=1", "generator.seeds=1",
             f"generator.model={{source: {wan}, resolution: 16, frames: 5, prompt_tokens: 77}}")
    found = adapt(load_config(RECIPES[1], (f"model={tiny_lm}", f"output.folder={folder}", *small)))[1]
    assert found["rewards"] == ["weighted sum", "prompt_motion", "colourfulness"] and found["renders"]["held out"] >= 4
    assert {row["file"].rpartition(".")[2] for row in rows_in(folder / "renders.jsonl")} == {"mkv"}
    typed(f"generate {wan} 'please animate star turns for me' --set resolution=16 --set frames=5 --steps 1 "
          f"--samples-per-prompt 1 --rewrite {folder} -o {tmp_path / 'out'}")
    row, = rows_in(tmp_path / "out" / "samples.jsonl")
    assert row["prompt"] == "please animate star turns for me" and row["file"].endswith(".mp4") and row["rewrite"]
