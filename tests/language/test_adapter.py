"""The whole of `lm adapt` on a tiny random language model and a tiny random pipeline, through the command line."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main

RECIPE = """
loop: adapt
model: {{source: {lm}, lora: {{rank: 2, alpha: 4}}}}
prompts: {folder}/asked.txt
generator:
  model: {{source: {generator}, resolution: 16, prompt_tokens: 16, attention: math}}
  steps: 1
  guidance_scale: 1.0
  seeds: 2
reward: {{models: [colourfulness, {{reward: sharpness, weight: 0.5}}]}}
rewrite: {{max_tokens: 6}}
gate: {{similarity: 0.5, max_words: 8}}
evolve: {{rounds: 1, per_round: 2, max_tokens: 6}}
sft: {{optim: {{lr: 1.0e-2}}, train: {{steps: 2, batch_size: 2}}}}
dpo: {{candidates: 2, train: {{steps: 2, batch_size: 2}}}}
eval: {{prompts: {folder}/held.txt, samples_per_prompt: 2, also: [contrast], features: tiny-clip}}
output: {{folder: {folder}/run}}
"""


@pytest.fixture
def adapt_recipe(tiny_lm, pipelines, tmp_path):
    (tmp_path / "asked.txt").write_text("a drawing of red fruit, please\ncould you draw a blue bird?\na green tree\n")
    (tmp_path / "held.txt").write_text("please draw a black cat for me\na drawing of pink heart, please\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(lm=tiny_lm, generator=pipelines("sd3"), folder=tmp_path))
    return file


def run(command: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["--debug", *shlex.split(command)], catch_exceptions=code != 0)
    assert result.exit_code == code, result.output
    return result.output


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_all_stages(adapt_recipe, tmp_path):
    said = run(f"lm adapt {adapt_recipe}")
    print(said)
    for f in sorted((tmp_path / "run").rglob("*")): print(f)
    print((tmp_path/"run/stages.json").read_text(), (tmp_path/"run/measures.json").read_text()[:3000])
    print((tmp_path/"run/evolve/round-1.jsonl").read_text(), (tmp_path/"run/candidates.jsonl").read_text())
    print(run(f"generate {tmp_path}/x 'a b'") if 0 else "")
    assert 0
