"""Runs: what is resumed, what may change, what is left of a run that was killed."""

import json

import yaml

from tests.hostile.case import Case

RECIPE = {"model": {"source": "tiny-sd3", "attention": "math", "precision": "fp32", "prompt_tokens": 8},
          "data": {"path": "pairs.jsonl", "cache": "cache", "holdout": 0.0}, "objective": {"name": "sft"},
          "train": {"steps": 2, "batch_size": 1, "device": "cpu"},
          "eval": {"prompts": "prompts.txt", "max_prompts": 1, "samples_per_prompt": 1, "steps": 1,
                   "guidance_scale": 1.0},
          "output": {"folder": "run", "trackers": []}}
IMAGE = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0"
                        "000003010100c9fe92ef0000000049454e44ae426082")
GIVEN = {"r.yaml": yaml.safe_dump(RECIPE), "prompts.txt": "a red fruit\n", "a.png": IMAGE, "b.png": IMAGE,
         "pairs.jsonl": json.dumps({"prompt": "a dot", "chosen": "a.png", "rejected": "b.png"}) + "\n"}


def started(where: str = "run", **changed) -> dict[str, str | bytes]:
    """The inputs, and what a run leaves that was killed before its first checkpoint."""
    from visalign.config.load import parse_config

    raw = {section: values | changed.get(section, {}) for section, values in RECIPE.items()}
    settings = parse_config(raw).model_dump(mode="json")
    return GIVEN | {f"{where}/config.yaml": yaml.safe_dump(settings), f"{where}/checkpoints/.keep": ""}


def with_checkpoint(**files: bytes) -> dict[str, str | bytes]:
    """A run with one checkpoint, of these files."""
    return started() | {f"run/checkpoints/step-00000001/{name.replace('__', '.')}": content
                        for name, content in files.items()}


CASES = [
    Case("resume-nowhere", "train r.yaml --resume output.folder=rum", ("rum", "nothing to resume", "run"),
         given=started(), lacks=("encoding pairs",)),
    Case("resume-nowhere-at-all", "train r.yaml --resume output.folder=x/y/z", ("x/y/z", "nothing to resume"),
         given=GIVEN),
    Case("resume-a-file", "train r.yaml --resume output.folder=prompts.txt", ("prompts.txt", "nothing to resume"),
         given=GIVEN),
    Case("resume-two-levels", "train r.yaml --resume output.folder=runs/firts", ("runs/first", "nothing to resume"),
         given=started("runs/first")),
    Case("quickstart-resume-nowhere", "quickstart --resume output.folder=nowhere", ("nowhere", "nothing to resume")),
    Case("start-over-a-run", "train r.yaml", ("already holds a run", "--resume"), given=started()),
    Case("folder-is-a-file", "train r.yaml output.folder=prompts.txt", ("prompts.txt", "cannot be written"),
         given=GIVEN),
    Case("other-lr", "train r.yaml --resume optim.lr=0.5", ("optim.lr was 0.0001 and is 0.5", "train.steps"),
         given=started()),
    Case("other-eval", "train r.yaml --resume eval.seed=3 eval.max_prompts=2",
         ("eval.max_prompts was 1 and is 2", "eval.seed"), given=started()),
    Case("other-seed", "train r.yaml --resume train.seed=3", ("train.seed was 0 and is 3",), given=started()),
    Case("other-objective", "train r.yaml --resume objective.name=flow_dpo", ("objective.name was sft",),
         given=started()),
    Case("other-model", "train r.yaml --resume model=tiny-sdxl", ("model.source was tiny-sd3",), given=started()),
    Case("config-broken", "train r.yaml --resume", ("run/config.yaml",), given=started() | {
        "run/config.yaml": "model: {source: ["}),
    Case("config-empty", "train r.yaml --resume", ("run/config.yaml",), given=started() | {"run/config.yaml": ""}),
    Case("config-of-online", "train r.yaml --resume", ("config.yaml is of another kind of run", "new folder"),
         given=started() | {"run/config.yaml": "model: {source: tiny-sd3}\nrollout: {}\nobjective: {name: grpo}\n"}),
    Case("no-checkpoint-is-whole", "train r.yaml --resume", ("step-00000001", "state.json is missing", "no older one"),
         given=with_checkpoint(trainable__safetensors=b"x")),
    Case("no-room", "train r.yaml output.keep_checkpoints=0 output.checkpoint_every=1 train.steps=100000000",
         ("output.folder", "are needed", "are free", "keep_checkpoints"), given=GIVEN),
    Case("metrics-torn-in-the-middle", "train r.yaml --resume", ("metrics.jsonl", "line 1"),
         given=started() | {"run/metrics.jsonl": 'hello\n{"kind": "start", "step": 0}\n'}),
]
