import json

import pytest

pytest.importorskip("trl")

RECIPE = """
loop: language
model: {{source: {model}, lora: {{rank: 4, alpha: 8}}, precision: fp32}}
data: {{path: {pairs}, holdout: 0.2}}
objective: {{name: dpo}}
optim: {{lr: 1.0e-2}}
train: {{steps: 4, batch_size: 4}}
eval: {{max_prompts: 3, samples_per_prompt: 2, reward: brevity, also: [repetition], max_tokens: 8}}
output: {{folder: {out}, trackers: []}}
"""


@pytest.fixture(scope="session")
def tiny_lm(of_all_workers):
    """The folder of a tiny random language model."""
    from tests.tiny.languages import save_tiny_language_model

    folder = of_all_workers / "tiny-lm"
    return folder if (folder / "model.safetensors").exists() else save_tiny_language_model(folder)


@pytest.fixture(scope="session")
def text_pairs(of_all_workers):
    """A table of 24 pairs: short answers are chosen, long ones rejected."""
    file = of_all_workers / "text-pairs.jsonl"
    rows = [{"prompt": f"Tell me about thing {i}.", "chosen": "Yes, short.", "strength": 1 + i % 3,
             "rejected": f"No, this is a long answer about thing {i}."} for i in range(24)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def recipe(tiny_lm, text_pairs, tmp_path):
    """make(*overrides) -> settings of a run of four steps."""
    from visalign.config.load import load_config

    def make(*overrides: str, out: str = "run"):
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.format(model=tiny_lm, pairs=text_pairs, out=tmp_path / out))
        return load_config(file, overrides)

    return make


OWN_ANSWERS = """
loop: language
model: {{source: {model}, lora: {{rank: 4, alpha: 8}}, precision: fp32}}
rollout: {{prompts: {prompts}, holdout: 0.2, prompts_per_step: 2, group_size: 4, max_tokens: 8}}
reward: {{models: [brevity]}}
advantage: {{baseline: leave_one_out, scale: none}}
objective: {{name: grpo, beta: 0.02}}
optim: {{lr: 1.0e-2}}
train: {{steps: 4, batch_size: 4}}
eval: {{max_prompts: 1, samples_per_prompt: 2, reward: brevity, max_tokens: 8}}
output: {{folder: {out}, trackers: []}}
"""


@pytest.fixture
def group_recipe(tiny_lm, tmp_path):
    """make(*overrides) -> settings of a run of four steps on own answers, two prompts of four answers each."""
    from visalign.config.load import load_config

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Tell me about thing {i}.\n" for i in range(20)))

    def make(*overrides: str, out: str = "run"):
        file = tmp_path / "online.yaml"
        file.write_text(OWN_ANSWERS.format(model=tiny_lm, prompts=prompts, out=tmp_path / out))
        return load_config(file, overrides)

    return make
