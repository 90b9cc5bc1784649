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
reward: {of: colourfulness}
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
    recipe("section-twice", OFFLINE + "optim: {lr: 1e-4}\noptim: {warmup_steps: 1}\n", "optim stands twice", "line 8"),
    recipe("key-twice", edited("batch_size: 2", "batch_size: 2, batch_size: 3"), "batch_size stands twice"),
    recipe("tab", edited("data: {path", "data:\n\tpath"), "tab", "spaces"),
    recipe("python-tag", edited("tiny-sd3", "!!python/object/apply:os.system [ls]"), "tags"),
    recipe("deep", "a: " + "[" * 5000, "nested"),
    recipe("huge", "a: 1\n" + "# " + "x" * 1_100_000, "characters"),
    recipe("laughs", "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(9)), "values"),
    recipe("eats-itself", "a: &a {b: *a}\n", "values"),
    recipe("number-as-key", OFFLINE + "1: 2\n", "the key 1"),
    recipe("binary", b"\x00\x01\x02\x03" * 400, "r.yaml"),
    recipe("picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, "r.yaml"),
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
    recipe("half-an-emoji", edited("folder: run", 'folder: "\\ud83d"'), "output.folder", "in no text"),
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
]
