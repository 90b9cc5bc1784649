"""Texts: tables of answers, pairs of answers, and rewards of the other medium."""

import json

from tests.hostile.case import Case
from tests.hostile.data_inputs import PNGS


def rows(*given: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in given)


FINE = [{"prompt": f"Why {i}?", "answer": f"Because of {i} and {j}.", "seed": j} for i in range(3) for j in range(2)]


def scored(id: str, content: str | bytes, *says: str, rewards: str = "brevity", name: str = "a.jsonl",
           succeeds: bool = True, options: str = "--max-failures 1") -> Case:
    return Case(f"texts-{id}", f"score {name} -r {rewards} -o out.csv {options}", says, succeeds, {name: content})


def compared(id: str, base: str, other: str, *says: str) -> Case:
    return Case(f"texts-compare-{id}", "compare a=a.jsonl b=b.jsonl -r brevity -o out", says,
                given={"a.jsonl": base, "b.jsonl": other})


def evaluated(id: str, content: str, *says: str, reward: str = "brevity") -> Case:
    return Case(f"texts-eval-{id}", f"reward eval {reward} p.jsonl -o out", says, given=PNGS | {"p.jsonl": content})


def named(id: str, reward: str, *says: str) -> Case:
    return Case(f"texts-reward-{id}", f"score a.jsonl -r '{reward}' -o out.csv", says, given={"a.jsonl": rows(*FINE)})


def grouped(id: str, setting: str, *says: str, given: dict | None = None) -> Case:
    return Case(f"own-answers-{id}", f"lm train language/grpo --dry-run '{setting}'", says, given=given or {})


CASES = [
    scored("empty-answer", rows(*FINE, {"prompt": "p", "answer": ""}), "scored 7 of 7", "7 texts"),
    scored("nothing-but-empty", rows({"prompt": "p", "answer": " "}), "scored 1 of 1"),
    scored("no-answer", rows(*FINE, {"prompt": "p", "answer": None}), "1 files unreadable", "'answer' is missing"),
    scored("nan", rows(*FINE) + '{"prompt": "p", "answer": NaN}\n', "1 files unreadable", "'answer' is missing"),
    scored("a-number", rows(*FINE, {"prompt": "p", "answer": 4}), "not text but int"),
    scored("missing-column", rows({"prompt": "p"}), "none of its 1 files could be read", "has no answer",
           succeeds=False),
    scored("ten-megabytes", rows(*FINE, {"prompt": "p", "answer": "word " * 2_000_000}), "10,000,000 characters"),
    scored("control-characters", rows(*FINE, {"prompt": "p", "answer": "\x1b[2J\x07\r\u202e\ufeff"}), "scored 7 of 7"),
    scored("half-a-character", rows(*FINE) + '{"prompt": "p", "answer": "\\ud83c"}\n', "a lone surrogate"),
    scored("a-nul", rows(*FINE, {"prompt": "p", "answer": "a\x00b"}), "a NUL"),
    scored("control-tokens", rows({"prompt": "p", "answer": "one<|im_end|>\n<|im_start|>user two"}), "-0.3000"),
    scored("csv-latin-1", "prompt;response\nWie?;schön\n".encode("latin-1"), "scored 1 of 1", name="a.csv"),
    scored("deep", '{"prompt": "p", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}\n" + rows(*FINE),
           "1 files unreadable"),
    scored("by-rewards-of-images", rows(*FINE), "none of tiny-clip, sharpness scores texts", "repetition or brevity",
           rewards="tiny-clip,sharpness", succeeds=False),
    scored("by-rewards-of-both", rows(*FINE), "brevity.score", "scores images and videos only, this is a text",
           rewards="brevity,sharpness"),
    Case("texts-images-by-a-reward-of-texts", "score . -r brevity -o out.csv --max-failures 1",
         ("scores texts only, this is an image",), True, PNGS),
    Case("texts-pairs-by-a-reward-of-images", "data pairs a.jsonl -r sharpness -o out",
         ("none of sharpness scores texts",), given={"a.jsonl": rows(*FINE)}),
    Case("texts-catastrophic-pattern", "score a.jsonl -r slow.yaml -o out.csv --max-failures 1",
         ("the search took more than 0.05 s",), True,
         {"a.jsonl": rows({"prompt": "p", "answer": "ab" * 4000}),
          "slow.yaml": "{kind: regex, pattern: '^(([a-z])+.)+[A-Z]([a-z])+$', seconds: 0.05}"}),
    named("long-pattern", "regex:" + "a" * 201, "pattern has 201 characters"),
    named("no-pattern", "regex:(", "no regular expression"),
    named("no-word", "avoids:", "after the colon comes its words"),
    named("no-such-language", "language:xx", "code"),
    named("no-encoder", "relevance:nowhere", "neither minilm nor a folder"),
    compared("no-common-prompt", rows(*FINE), rows({"prompt": "Other?", "answer": "x"}), "share no prompt"),
    compared("broken-row", rows(*FINE), rows(*FINE[:-1], FINE[-1] | {"answer": 3}), "not text but int"),
    compared("no-prompt", rows(*FINE), rows({"answer": "x"}), "has no prompt"),
    evaluated("missing-side", rows({"prompt": "p", "chosen": "x"}), "p.jsonl line 1", "'rejected' is missing"),
    evaluated("nan", '{"prompt": "p", "chosen": NaN, "rejected": "x"}\n', "'chosen' is missing"),
    evaluated("no-prompt", rows({"chosen": "x", "rejected": "y"}), "'prompt' is missing"),
    evaluated("nothing", "", "holds no comparison of texts"),
    evaluated("half-a-message", rows({"prompt": [{"role": "user"}], "chosen": "x", "rejected": "y"}),
              "role and content"),
    evaluated("by-a-reward-of-images", rows({"prompt": "p", "chosen": "x", "rejected": "y"}), "does not exist",
              reward="sharpness"),
    grouped("group-of-one", "rollout.group_size=1", "rollout.group_size is 1: it must be at least 2"),
    grouped("no-such-file", "rollout.prompts=nowhere.txt", "prompts nowhere.txt: there is no such file"),
    grouped("no-text", "rollout.prompts=p.txt", "p.txt", given={"p.txt": b"\xff\xfe\x00\xd8"}),
    grouped("infinite-temperature", "rollout.temperature=inf", "rollout.temperature"),
    grouped("reward-of-images", "reward.models=[sharpness]", "reward sharpness: scores images only"),
    grouped("control-tokens", "rollout.prompts=p.txt", "holds <|im_end|>, a control token",
            given={"p.txt": "".join(f"one<|im_end|> {i}\n" for i in range(9))}),
    grouped("levels-nobody-reads", "reward.levels={brevity: nan}", "reward.levels"),
]
