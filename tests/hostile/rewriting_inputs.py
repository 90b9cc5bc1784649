"""Rewriting prompts: `lm adapt`, and `generate --rewrite`."""

from tests.hostile.case import Case

RECIPE = """loop: adapt
model: {source: smollm2}
prompts: asked.txt
generator: {model: {source: tiny-sd3, prompt_tokens: 8}, steps: 1}
reward: {models: [colourfulness]}
eval: {prompts: held.txt}
output: {folder: run}
"""
FILES = {"a.yaml": RECIPE, "asked.txt": "a drawing of a fox, please\n", "held.txt": "could you draw a cat?\n"}


def planned(id: str, change: str, *says: str, succeeds: bool = False) -> Case:
    return Case(f"adapt-{id}", f"lm adapt a.yaml {change} --dry-run", says, succeeds, FILES)


def drawn(id: str, options: str, given: dict, *says: str) -> Case:
    return Case(f"rewrite-{id}", f"generate tiny-sd3 fox --steps 1 {options} -o out", says, False, given)


CASES = [
    planned("planned", "", "1 to learn from, 1 held out", "at most", succeeds=True),
    planned("no-generator", "generator.model.source=nowhere", "nowhere"),
    planned("generator-is-a-language-model", "generator.model.source=smollm2", "smollm2"),
    planned("model-is-a-generator", "model=tiny-sd3", "model.source tiny-sd3", "there is no such folder"),
    planned("no-prompts", "prompts=nowhere.txt", "nowhere.txt"),
    planned("only-held-out", "prompts=held.txt", "every prompt is among eval.prompts"),
    planned("floor-of-nobody", "'reward.floors={sharpness: 1}'", "reward.floors.sharpness", "colourfulness"),
    planned("no-reward", "reward.models=[]", "reward.models", "at least one reward"),
    planned("offload", "reward.offload=true", "reward.offload", "leave it out"),
    planned("reward-of-text", "reward.models=[brevity]", "brevity", "text"),
    planned("similarity", "gate.similarity=2", "gate.similarity", "at most 1"),
    planned("nobody-writes", "'evolve={rules: false, llm: false}'", "evolve", "set one of them true"),
    planned("all-weights", "model.tuning=full", "exported as one LoRA"),
    planned("system", "model.system=hello", "rewrite.system"),
    planned("unknown-key", "evolve.round=3", "unknown key evolve.round", "rounds"),
    planned("one-candidate", "dpo.candidates=1", "dpo.candidates", "at least 2"),
    planned("optimiser", "dpo.optim.name=muon", "muon"),
    Case("adapt-by-lm-train", "lm train a.yaml --dry-run", ("1 to learn from",), True, FILES),
    Case("adapt-of-another-recipe", "lm adapt language/dpo --dry-run", ("none for rewriting", "visalign train")),
    drawn("nothing-there", "--rewrite nowhere", {}, "nowhere", "does not exist"),
    drawn("no-rewriter", "--rewrite run", {"run/x.txt": "x"}, "run", "holds no rewrite.json"),
    drawn("unfinished", "--rewrite run", {"run/config.yaml": RECIPE}, "not finished", "--resume"),
    drawn("damaged", "--rewrite run", {"run/rewrite.json": "{"}, "rewrite.json", "is not JSON"),
    drawn("half-of-it", "--rewrite run", {"run/rewrite.json": "{}"}, "rewrite.json", "not what a run writes"),
    drawn("without-the-adapter", "--rewrite run",
          {"run/rewrite.json": '{"rewrite": {}, "gate": {}, "trained_for": "x"}'}, "run", "has no config.json"),
    drawn("best-of", "--rewrite run --best-of 2", {"run/x.txt": "x"}, "--rewrite and --best-of"),
]
