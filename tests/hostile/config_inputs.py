"""Recipes and overrides."""

import io

from PIL import Image

from tests.hostile.case import Case


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(data, "png")
    return data.getvalue()


PAIRS = "prompt,chosen,rejected\na red fox,a.png,b.png\na blue bird,b.png,a.png\n"
OFFLINE = """model: {source: tiny-sd3, attention: math, prompt_tokens: 8}
data: {path: pairs.csv, holdout: 0, cache: cache}
objective: {name: flow_dpo, beta: 200}
train: {steps: 4, batch_size: 2, device: cpu}
eval: {prompts: prompts.txt, max_prompts: 2, samples_per_prompt: 2, steps: 2}
output: {folder: run, trackers: []}
"""
ONLINE = """model: {source: tiny-sd3, attention: math, prompt_tokens: 8}
rollout: {prompts: prompts.txt, prompts_per_epoch: 2, group_size: 4, batch_size: 8, steps: 4, clean_steps: 2,
          cache: cache}
reward: {models: colourfulness}
objective: {name: grpo, clip: 1.0e-3}
train: {epochs: 2, batch_size: 8, device: cpu}
eval: {prompts: prompts.txt, max_prompts: 2, samples_per_prompt: 2, steps: 2}
output: {folder: run, trackers: []}
"""
FILES = {"r.yaml": OFFLINE, "online.yaml": ONLINE, "pairs.csv": PAIRS, "prompts.txt": "a red fox\na blue bird\n",
         "a.png": png("red"), "b.png": png("blue")}


def recipe(id: str, text: str | bytes, *says: str, succeeds: bool = False) -> Case:
    """A recipe that is only planned."""
    return Case(f"recipe-{id}", "train r.yaml --dry-run", says if succeeds else ("r.yaml", *says), succeeds,
                FILES | {"r.yaml": text})


def changed(id: str, change: str, *says: str, succeeds: bool = False, of: str = "r.yaml") -> Case:
    """One override of a recipe that is only planned."""
    return Case(f"set-{id}", f"train {of} {change} --dry-run", says, succeeds, FILES)


def edited(before: str, after: str) -> str:
    assert before in OFFLINE
    return OFFLINE.replace(before, after)


CASES = [
    Case("unknown-key", "train r.yaml", ("r.yaml", "model.sourc", "did you mean 'source'"),
         given={"r.yaml": "model: {source: tiny-sd3, sourc: x}\nobjective: {name: sft}\n"}),
    Case("missing-file", "train nowhere.yaml", ("nowhere.yaml", "no such file")),
    Case("a-folder", "train .", ("cannot be read",), given=FILES),
    Case("typed-as-an-option", "train r.yaml --optim.lr=1e-5", ("write optim.lr=1e-5",), given=FILES),
    Case("typed-as-an-option-with-a-space", "train r.yaml --train.steps 5", ("write train.steps=5",), given=FILES),
    Case("rewards-with-spaces", "score nowhere -r 'sharpness, contrast'", ("nowhere",), lacks=("neither a known",)),
    Case("no-rewards", "score nowhere -r ,", ("--rewards", "names nothing")),
    recipe("empty", "", "mapping"), recipe("a-list", "- 1\n", "mapping", "list"),
    recipe("a-word", "hello\n", "mapping"),
    recipe("section-twice", OFFLINE + "optim: {lr: 1e-4}\noptim: {warmup_steps: 1}\n", "optim occurs twice", "line 8"),
    recipe("key-twice", edited("batch_size: 2", "batch_size: 2, batch_size: 3"), "batch_size occurs twice"),
    recipe("tab", edited("data: {path", "data:\n\tpath"), "tab", "spaces"),
    recipe("python-tag", edited("tiny-sd3", "!!python/object/apply:os.system [ls]"), "tags"),
    recipe("deep", "a: " + "[" * 5000, "nested"),
    recipe("huge", "a: 1\n" + "# " + "x" * 1_100_000, "characters"),
    recipe("laughs", "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)), "values"),
    recipe("eats-itself", "a: &a {b: *a}\n", "values"),
    recipe("number-as-key", OFFLINE + "1: 2\n", "the key 1"),
    recipe("binary", b"\x00\x01\x02\x03" * 400, "r.yaml"),
    recipe("image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "r.yaml"),
    recipe("two-documents", OFFLINE + "---\n" + OFFLINE, "another document"),
    recipe("misspelt-section", edited("model:", "modell:"), "unknown key modell", "'model'"),
    recipe("capital-section", edited("model:", "Model:"), "unknown key Model", "'model'"),
    recipe("section-is-a-word", edited("{steps: 4, batch_size: 2, device: cpu}", "fast"), "train", "mapping"),
    recipe("objective-is-a-word", edited("{name: flow_dpo, beta: 200}", "flow_dpo"), "objective", "mapping"),
    recipe("on-for-a-number", edited("steps: 4", "steps: on"), "train.steps", "'on'"),
    recipe("true-for-a-number", edited("steps: 4", "steps: true"), "train.steps", "number"),
    recipe("base-sixty", edited("steps: 4", "steps: 1:30"), "train.steps", "'1:30'"),
    recipe("yes-for-a-rate", OFFLINE + "optim: {lr: yes}\n", "optim.lr", "'yes'"),
    recipe("not-a-number", OFFLINE + "optim: {lr: .nan}\n", "optim.lr", "finite"),
    recipe("infinite", edited("beta: 200", "beta: .inf"), "objective.beta", "finite"),
    recipe("half-an-emoji", edited("folder: run", 'folder: "\\ud83d"'), "output.folder", "cannot occur in text"),
    recipe("number-for-a-name", edited("folder: run", "folder: 003"), "output.folder", "quotes"),
    recipe("off-is-a-word", OFFLINE + "guard: {action: off}\n", "action: off", succeeds=True),
    recipe("date-is-a-word", edited("folder: run", "folder: 2026-11-25"), "2026-11-25", succeeds=True),
    recipe("yes-is-true", edited("attention: math", "attention: math, vae_tiling: yes"), "vae_tiling: true",
           succeeds=True),
    recipe("byte-order-mark", b"\xef\xbb\xbf" + OFFLINE.encode(), "tiny-sd3", succeeds=True),
    recipe("utf-16", OFFLINE.encode("utf-16"), "tiny-sd3", succeeds=True),
    recipe("windows", OFFLINE.replace("\n", "\r\n"), "tiny-sd3", succeeds=True),
    recipe("umlauts-latin-1", edited("folder: run", "folder: Läufe").encode("latin-1"), "Läufe", succeeds=True),
    recipe("anchors", edited("eval: {", "eval: &e {").replace("output:", "guard: {max_prompts: 2}\noutput:"),
           "tiny-sd3", succeeds=True),
    changed("date", "output.folder=2026-11-25", "2026-11-25", succeeds=True),
    changed("leading-zeros", "output.folder=003", "'003'", succeeds=True),
    changed("colon", "'output.folder=a: b'", "a: b", succeeds=True),
    changed("guard-off", "guard.action=off", "action: off", succeeds=True),
    changed("negative-no", "rollout.negative_prompt=no", "negative_prompt: no", succeeds=True, of="online.yaml"),
    changed("brackets", "'eval.prompts=[mine].txt'", "[mine].txt", "no such file"),
    changed("hash", "'data.path=my set #1/x.csv'", "my set #1/x.csv", "no such file"),
    changed("on-for-a-number", "train.steps=on", "train.steps", "'on'"),
    changed("list-for-a-word", "model.lora.targets=to_q", "model.lora.targets", "list"),
    changed("broken-list", "'optim.betas=[0.9'", "optim.betas=[0.9", "YAML"),
    changed("into-a-value", "optim.lr.x=3", "optim.lr"),
    changed("no-value", "optim.lr", "key=value"),
    changed("spaces-around", "optim.lr = 3", "key=value"),
    changed("empty-key", "=3", "key=value"),
    changed("unknown", "optm.lr=3", "optm", "'optim'"),
    changed("resolution-1", "model.resolution=1", "model.resolution", "at least 8"),
    changed("resolution-pair", "'model.resolution=[64, 90000]'", "model.resolution.1", "at most 8192"),
    changed("resolution-0.5", "model.resolution=63.5", "model.resolution"),
    changed("prompt-tokens", "model.prompt_tokens=100000", "model.prompt_tokens", "at most 512"),
    changed("rank-0", "model.lora.rank=0", "model.lora.rank", "at least 1"),
    changed("rank-100000", "model.lora.rank=100000", "model.lora.rank", "at most"),
    changed("no-targets", "'model.lora.targets=[]'", "model.lora.targets", "must not be empty"),
    changed("blank-target", "'model.lora.targets=[\"\"]'", "model.lora.targets", "must not be empty"),
    changed("dropout-1", "model.lora.dropout=1", "model.lora.dropout", "below 1"),
    changed("seed-2-to-the-70", f"train.seed={2**70}", "train.seed", "below"),
    changed("seed-negative", "train.seed=-1", "train.seed", "at least 0"),
    changed("eval-seed", "eval.seed=99999999999", "eval.seed", "below"),
    changed("batch-million", "train.batch_size=1000000", "train.batch_size", "at most 4096"),
    changed("batch-0", "train.batch_size=0", "train.batch_size", "at least 1"),
    changed("steps-billion", "train.steps=99999999999999999999", "train.steps", "at most"),
    changed("half-a-step", "train.steps=2.5", "train.steps", "2.5"),
    changed("lr-5", "optim.lr=5", "optim.lr", "at most 1"),
    changed("lr-0", "optim.lr=0", "optim.lr", "greater than 0"),
    changed("lr-nan", "optim.lr=.nan", "optim.lr", "finite"),
    changed("decay-negative", "optim.weight_decay=-0.1", "optim.weight_decay", "at least 0"),
    changed("betas-three", "'optim.betas=[0.9, 0.99, 0.999]'", "optim.betas"),
    changed("beta-1", "'optim.betas=[0.9, 1.0]'", "optim.betas.1", "below 1"),
    changed("ema-1", "optim.ema_decay=1", "optim.ema_decay", "below 1"),
    changed("ema-every-alone", "optim.ema_every=8", "optim.ema_every", "optim.ema_decay"),
    changed("caption-dropout", "data.caption_dropout=1.5", "data.caption_dropout", "below 1"),
    changed("keep-tags-alone", "data.captions.keep_tags=2", "data.captions.keep_tags", "data.captions.shuffle_tags"),
    changed("caption-columns-twice", "'data.captions.columns=[a, a]'", "data.captions.columns", "twice"),
    changed("no-variants", "data.captions.variants=0", "data.captions.variants", "at least 1"),
    changed("path-and-sources", "'data.sources=[{path: a.jsonl}]'", "data.path", "data.sources"),
    changed("no-sources", "'data.sources=[]'", "data.sources", "must not be empty"),
    changed("source-without-path", "'data.sources=[{share: 0.5}]'", "data.sources.0.path", "missing"),
    changed("shares-beyond-1",
            "data.path=null 'data.sources=[{path: a, share: 0.7}, {path: b, share: 0.4}, {path: c}]'", "add up to 1.1"),
    changed("shares-below-1", "data.path=null 'data.sources=[{path: a, share: 0.5}, {path: b, share: 0.4}]'",
            "add up to 0.9 instead of 1"),
    changed("loss-weight-0", "data.path=null 'data.sources=[{path: a, loss_weight: 0}]'", "loss_weight",
            "greater than 0"),
    changed("holdout-all", "data.holdout=1", "data.holdout", "below 1"),
    changed("dimensions-zero", "'data.dimensions={VQ: 0, MQ: 0}'", "data.dimensions", "0"),
    changed("dimensions-none", "'data.dimensions={}'", "data.dimensions", "must not be empty"),
    changed("shift-of-uniform", "train.timestep_shift=3", "train.timestep_shift", "logit_normal"),
    changed("objective-beta", "objective.beta=-1", "objective.beta", "greater than 0"),
    changed("objective-text", "objective.beta=strong", "objective.beta", "'strong'"),
    changed("objective-margin", "objective.margin=-1", "objective.margin", "at least 0"),
    changed("margin-of-all", "'objective.margin_of={reward: 0.99}'", "at least 0.05"),
    changed("margin-of-two", "'objective.margin_of={a: 0.1, b: 0.1}'", "2 rewards", "data.score_with"),
    changed("margin-of-another", "'objective.margin_of={beauty: 0.1}'", "names beauty", "reward"),
    changed("margin-of-ipo", "objective.link=ipo objective.margin=0.1", "link 'ipo' does not see"),
    changed("labels-all-new", "objective.dynamic_labels=1", "objective.dynamic_labels", "below 1"),
    changed("labels-too-sharp", "objective.soft_labels=0", "objective.soft_labels", "greater than 0"),
    changed("flips-of-all", "objective.forward_rate=0.5", "objective.forward_rate", "below 0.5"),
    changed("flips-unknown", "objective.forward_rate=guess", "objective.forward_rate", "learn"),
    changed("flips-twice", "objective.forward_rate=learn objective.flip_rate=0.1", "the same label noise"),
    changed("value-without-weight", "objective.value=optimistic", "value and value_weight go together"),
    changed("guidance", "eval.guidance_scale=1000", "eval.guidance_scale", "at most 100"),
    changed("eval-steps", "eval.steps=100000", "eval.steps", "at most 1000"),
    changed("empty-folder", "output.folder=", "output.folder", "must not be empty"),
    changed("empty-reward", "'eval.reward={}'", "eval.reward", "must not be empty"),
    changed("warmup-beyond", "optim.warmup_steps=500", "note: optim.warmup_steps 500", succeeds=True),
    changed("eval-beyond", "eval.every=500", "note: eval.every 500", succeeds=True),
    changed("feedback-pairs", "data.path=null data.feedback.pairs_per_prompt=3", "pairs_per_prompt 3",
            "samples_per_prompt 4"),
    changed("two-sources", "data.feedback.steps=3", "data.path", "data.feedback"),
    changed("window-too-long", "'rollout.window={size: 3}'", "rollout.window.size 3", of="online.yaml"),
    changed("window-last", "'rollout.window={size: 1, last: 7}'", "rollout.window.last 7", of="online.yaml"),
    changed("window-first", "'rollout.window={size: 1, first: 2}'", "rollout.window.first 2", of="online.yaml"),
    changed("all-steps-clean", "rollout.clean_steps=4", "rollout.clean_steps 4", of="online.yaml"),
    changed("cps-noise", "rollout.sampler=cps rollout.noise_level=1.5", "noise_level 1.5", "cps", of="online.yaml"),
    changed("no-rewards", "'reward.models=[]'", "reward.models", of="online.yaml"),
    changed("weight-negative", "'reward.models={reward: sharpness, weight: -1}'", "weight", "at least 0",
            of="online.yaml"),
    changed("weights-zero", "'reward.models={reward: sharpness, weight: 0}'", "weighs every reward 0",
            of="online.yaml"),
    changed("group-of-one", "rollout.group_size=1 rollout.batch_size=2", "group_size 1", of="online.yaml"),
    changed("best-of-more", "objective.best_of=6", "group_size 4", "6 samples", of="online.yaml"),
    changed("does-not-divide", "rollout.batch_size=3", "multiple", of="online.yaml"),
    changed("advantage-clip", "advantage.clip=0", "advantage.clip", "greater than 0", of="online.yaml"),
    changed("win-rates-and-history", "advantage.shape=win_rate advantage.history=4", "win_rate goes with neither",
            of="online.yaml"),
    changed("history-lone", "advantage.history=4 advantage.scale=mad", "history", of="online.yaml"),
    changed("marble-and-grpo", "advantage.combine=marble", "combine marble", "objective.name grpo", "nft",
            of="online.yaml"),
    changed("marble-and-weights", "advantage.combine=marble 'objective={name: nft}' "
            "'reward.models=[sharpness, {reward: contrast, weight: 2}]'", "contrast", "weight 2", "marble",
            of="online.yaml"),
    changed("marble-and-moving-awm", "advantage.combine=marble 'objective={name: awm}'", "decay_max 0",
            of="online.yaml"),
    changed("every-alone", "advantage.every=4", "every goes with combine marble", of="online.yaml"),
    changed("thresholds-name", "advantage.combine=constrained 'advantage.thresholds={colourfulnes: 3}'",
            "advantage.thresholds colourfulnes", "did you mean 'colourfulness'", of="online.yaml"),
    changed("thresholds-lacking", "advantage.combine=constrained", "needs thresholds", of="online.yaml"),
    changed("thresholds-text", "advantage.combine=constrained 'advantage.thresholds={colourfulness: high}'",
            "advantage.thresholds.colourfulness", of="online.yaml"),
    changed("thresholds-weighed", "advantage.combine=constrained 'advantage.thresholds={colourfulness: 3}' "
            "'reward.models=[{reward: colourfulness, weight: 2}]'", "weight 2", of="online.yaml"),
    changed("worst-of-votes", "advantage.combine=worst rollout.votes=pairs.csv 'reward.models=[]'", "votes",
            of="online.yaml"),
    changed("schedule-name", "'advantage.schedule={layout: [colour], texture: [colourfulness]}'",
            "advantage.schedule.layout colour", of="online.yaml"),
    changed("schedule-key", "'advantage.schedule={layuot: [colourfulness], texture: []}'", "unknown key",
            "advantage.schedule.layuot", of="online.yaml"),
    changed("schedule-split", "'advantage.schedule={layout: [colourfulness], texture: [], split: 1.5}'", "split",
            "below 1", of="online.yaml"),
    changed("schedule-and-d3po", "'advantage.schedule={layout: [colourfulness], texture: []}' "
            "'objective={name: d3po}'", "d3po", "schedule", of="online.yaml"),
    changed("epochs-0", "train.epochs=0", "train.epochs", "at least 1", of="online.yaml"),
    Case("generate-no-samples", "generate tiny-sd3 'a cat' --samples-per-prompt 0", ("--samples-per-prompt",)),
    Case("generate-many-steps", "generate tiny-sd3 'a cat' --steps 100000", ("--steps", "1000")),
    Case("generate-seed", f"generate tiny-sd3 'a cat' --seed {2**70}", ("--seed",)),
    Case("generate-guidance", "generate tiny-sd3 'a cat' --guidance-scale nan", ("--guidance-scale",)),
    Case("generate-set-typo", "generate tiny-sd3 'a cat' --set resolutoin=64", ("resolutoin", "'resolution'")),
    Case("generate-set-none", "generate tiny-sd3 'a cat' --set resolution", ("key=value",)),
    Case("generate-set-range", "generate tiny-sd3 'a cat' --set prompt_tokens=100000", ("prompt_tokens", "512")),
    Case("guide-weights", "generate tiny-sd3 'a cat' --guide VQ=nan --guide-from .", ("VQ=nan", "NAME=WEIGHT")),
    Case("pairs-rso-beta", "data pairs x -o out --strategy rso --rso-beta 0", ("--rso-beta",)),
    Case("pairs-rso-alone", "data pairs x -o out --rso-beta 1", ("--rso-beta", "strategy rso")),
    Case("pairs-several", "data pairs x -o out -r contrast,jpeg", ("--reward names 2", "strategy pareto")),
    Case("pairs-standardise", "data pairs x -o out --standardise", ("--standardise", "strategy pareto")),
    Case("pairs-second-reward", "data pairs x -o out -r contrast --second-reward contrast", ("is the reward itself",)),
    Case("pairs-confidence", "data pairs x -o out --min-confidence 1.5", ("--min-confidence",)),
    Case("no-model", "evaluate '+some-lora'", ("model.source", "must not be empty")),
    Case("blank-model", "generate ' ' 'a cat'", ("model.source", "must not be empty")),
]
