"""Recipes and overrides."""

from tests.hostile.case import Case

CASES = [
    Case("unknown-key", "train r.yaml", ("r.yaml", "model.sourc", "did you mean 'source'"),
         given={"r.yaml": "model: {source: tiny-sd3, sourc: x}\nobjective: {name: sft}\n"}),
    Case("missing-file", "train nowhere.yaml", ("nowhere.yaml", "no such file")),
]
