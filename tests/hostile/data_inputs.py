"""Tables, pairs, prompts, votes and suites as people have them."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.hostile.case import Case

PNGS = {}
for _name, _colour in (("a.png", "red"), ("b.png", "blue"), ("sub/c.png", "green")):
    _buffer = io.BytesIO()
    Image.new("RGB", (8, 8), _colour).save(_buffer, "PNG")
    PNGS[_name] = _buffer.getvalue()
GOOD = {"prompt": "a cat", "chosen": "a.png", "rejected": "b.png"}
HEADER = "prompt,chosen,rejected\n"
RECIPE = ("model: {source: tiny-sd3}\ndata: {path: pairs.jsonl, holdout: 0}\nobjective: {name: flow_dpo}\n"
          "output: {folder: run}\n")
ONLINE = ("model: {source: tiny-sd3, resolution: 64}\nrollout: {votes: votes.csv, group_size: 2, batch_size: 2}\n"
          "reward: {models: []}\nobjective: {name: d3po}\neval: {prompts: 'emoji:held_out'}\n"
          "train: {batch_size: 2, device: cpu}\noutput: {folder: run}\n")


def lines(*rows, **changes) -> str:
    return "".join(json.dumps(GOOD | row) + "\n" for row in rows or [changes])


def check(id: str, name: str, content: str | bytes, *says: str, succeeds: bool = False, options: str = "",
          lacks: tuple[str, ...] = ()) -> Case:
    return Case(f"check-{id}", f"data check {name} --sheet sheet.png {options}", says, succeeds, PNGS | {name: content},
                lacks)


def taken(id: str, name: str, content: str | bytes, *says: str, options: str = "") -> Case:
    return check(id, name, content, *(says or ("1 pairs of 1 prompts", "broken rows: 0")), succeeds=True,
                 options=options)


def folder(files: dict[str, list[dict]]):
    """Writes the images, and each table as parquet or JSON lines."""
    def write(place: Path) -> None:
        Case("", "", given=PNGS).lay_out(place)
        for name, rows in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("parquet"):
                pq.write_table(pa.Table.from_pylist(rows), place / name)
            else:
                (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


def splits(id: str, files: dict[str, list[dict]], *says: str, split: str = "train", succeeds: bool = True) -> Case:
    return Case(f"split-{id}", f"data check set --split {split} --media-root . --sheet sheet.png", says, succeeds,
                folder(files))


def prompts(id: str, name: str, content: str | bytes, *says: str, succeeds: bool = False) -> Case:
    """Through a verb that reads prompts before anything else."""
    return Case(f"prompts-{id}", f"train r.yaml eval.prompts={name} --dry-run", says, succeeds,
                PNGS | {name: content, "r.yaml": RECIPE, "pairs.jsonl": lines()})


def votes(id: str, content: str | bytes, *says: str, succeeds: bool = False) -> Case:
    return Case(f"votes-{id}", "train r.yaml --dry-run", says, succeeds, {"votes.csv": content, "r.yaml": ONLINE})


def annotated(id: str, name: str, content: str | bytes, *says: str) -> Case:
    return Case(f"annotations-{id}", f"reward eval tiny-clip {name} --dimensions quality -o out", says,
                given=PNGS | {name: content})


def trained(id: str, content: str, *says: str, options: str = "") -> Case:
    return Case(f"train-{id}", f"train r.yaml {options}", says,
                given=PNGS | {"half.png": PNGS["a.png"][:20], "pairs.jsonl": content, "r.yaml": RECIPE},
                lacks=("sampling", "Loading"))


def saved_by_datasets(place: Path) -> None:
    import datasets

    Case("", "", given=PNGS).lay_out(place)
    train, test = ([GOOD | {"prompt": f"{name} {i}"} for i in range(count)] for name, count in (("x", 3), ("y", 1)))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(train),
                          "test": datasets.Dataset.from_list(test)}).save_to_disk(place / "set")


LAYOUT = PNGS | {"suite.txt": "a cat\n", "samples/samples.jsonl": "".join(
    json.dumps({"prompt": "a cat", "image": f"../{name}"}) + "\n" for name in ("a.png", "b.png") for _ in range(5))}
DEEP = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
PICK = {"caption": "a cat", "jpg_0": PNGS["a.png"], "jpg_1": PNGS["b.png"], "label_0": 1.0, "label_1": 0.0}

CASES = [
    taken("bom", "p.jsonl", "\ufeff" + lines()),
    taken("utf-16", "p.csv", (HEADER + "ein Käfer,a.png,b.png\n").encode("utf-16")),
    taken("utf-16-no-mark", "p.csv", (HEADER + "a cat,a.png,b.png\n").encode("utf-16-le")),
    taken("latin-1", "p.csv", (HEADER + "café,a.png,b.png\n").encode("latin-1")),
    taken("japanese", "p.csv", (HEADER + "赤い猫が走る,a.png,b.png\n").encode("cp932")),
    taken("semicolon", "p.csv", "\ufeffprompt;chosen;rejected\r\na cat, a dog;a.png;b.png\r\n"),
    taken("tabs", "p.tsv", "prompt\tchosen\trejected\na, b; c\ta.png\tb.png\n"),
    taken("excel-sep", "p.csv", "sep=;\nprompt;chosen;rejected\na cat;a.png;b.png\n"),
    taken("blanks", "p.csv", 'prompt , chosen , rejected\n"a, b", a.png, b.png\n'),
    taken("blank-lines", "p.csv", "\n\n" + HEADER + "\na cat,a.png,b.png\n,,\n\n"),
    taken("index-column", "p.csv", ",prompt,chosen,rejected\n0,a cat,a.png,b.png\n"),
    taken("old-mac", "p.csv", HEADER.replace("\n", "\r") + "a cat,a.png,b.png\r"),
    taken("several-lines", "p.csv", HEADER + '"a cat\non a mat",a.png,b.png\n'),
    taken("long-field", "p.csv", HEADER + "a" * 200_000 + ",a.png,b.png\n"),
    taken("capitals", "PAIRS.JSONL", lines()),
    taken("ndjson", "p.ndjson", lines()),
    taken("list", "p.json", json.dumps([GOOD])),
    taken("list-in-jsonl", "p.jsonl", json.dumps([GOOD], indent=2)),
    taken("lines-in-json", "p.json", lines(GOOD, GOOD), "2 pairs of 1 prompts", "duplicate pairs: 1"),
    taken("data-in-json", "p.json", json.dumps({"data": [GOOD]})),
    taken("backslash", "p.jsonl", lines(chosen="sub\\c.png")),
    taken("separators", "p.jsonl", json.dumps(GOOD | {"prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\n"),
    taken("ties", "p.csv", "prompt,chosen,rejected,tie\n" + "".join(
        f"a,a.png,b.png,{word}\n" for word in ("TRUE", "Yes", "1", "1.0", "no", "FALSE", "")), "3 pairs", "4 ties"),
    taken("header-capitals", "p.csv", "Prompt;CHOSEN;Rejected\na cat;a.png;b.png\n"),
    taken("strength-blank", "p.jsonl", lines(strength="")),
    check("strength-negative", "p.jsonl", lines(strength=-1), "line 1", "'strength' is -1", "0 or more"),
    Case("check-hub-offline", "data check nobody/nothing", ("nobody/nothing", "no local file", "hub did not give it")),
    check("tie-unclear", "p.csv", "prompt,chosen,rejected,tie\na,a.png,b.png,maybe\n", "line 2", "'maybe'", "allowed"),
    check("two-columns", "p.csv", "prompt,prompt,chosen,rejected\na,b,a.png,b.png\n", "two columns named 'prompt'"),
    check("too-many-fields", "p.csv", HEADER + "a cat, a dog,a.png,b.png\n", "line 2: has 4 fields, the header 3"),
    check("open-quote", "p.csv", HEADER + 'a,a.png,b.png\n"b,a.png,b.png\n', "line 3", "CSV", "broken rows: 1"),
    check("stray-quote", "p.csv", HEADER + '"big" cat,a.png,b.png\n', "line 2", "quotation mark"),
    check("decimal-comma", "p.csv", "prompt;chosen;rejected;strength\na;a.png;b.png;0,5\n", "line 2", "point"),
    check("mixed-encodings", "p.jsonl", (lines(prompt="x") + json.dumps(
        GOOD | {"prompt": "Käfer"}, ensure_ascii=False) + "\n").encode() + b'{"prompt": "caf\xe9"}\n', "line 3",
        "stray byte", "2 pairs"),
    check("half-emoji", "p.jsonl", '{"prompt": "\\ud83c", "chosen": "a.png", "rejected": "b.png"}\n', "line 1",
          "'prompt' holds half of a character"),
    check("nul", "p.jsonl", lines(chosen="a\x00.png"), "line 1", "'chosen'", "NUL"),
    check("deep", "p.jsonl", DEEP, "line 1", "too deep"),
    check("deep-list", "p.json", "[" * 100_000, "p.json", "not readable as JSON"),
    check("key-twice", "p.jsonl", '{"prompt": "a", "prompt": "b", "chosen": "a.png", "rejected": "b.png"}\n', "line 1",
          "'prompt' is given twice"),
    check("half-a-file", "p.json", json.dumps([GOOD])[:-9], "p.json", "not readable as JSON"),
    check("number", "p.json", "7", "expected a JSON list"),
    check("huge", "p.jsonl", lines()[:-2] + ', "strength": ' + "9" * 500 + "}\n", "line 1", "'strength'", "too large"),
    check("not-finite", "p.jsonl", lines(strength=float("nan")), "line 1", "'strength'", "finite"),
    taken("captions", "p.jsonl", lines(prompt=["a", "b"]), "captions: 2 for 1 pairs or media"),
    check("captions-of-numbers", "p.jsonl", lines(prompt=["a", 7]), "line 1", "'prompt' holds int (7), not text"),
    check("captions-none", "p.jsonl", lines(prompt=[]), "line 1", "'prompt' is empty"),
    check("captions-nested", "p.jsonl", lines(prompt=[["a"]]), "line 1", "'prompt' holds list"),
    Case("check-recipe", "data check r.yaml", ("p.jsonl: 1 pairs", "q.jsonl: 0 pairs", "gone.png"), given=PNGS | {
        "r.yaml": RECIPE.replace("path: pairs.jsonl", "sources: [{path: p.jsonl}, {path: q.jsonl}]"),
        "p.jsonl": lines(), "q.jsonl": lines(chosen="gone.png")}),
    check("blank-prompt", "p.jsonl", lines(prompt=" \t"), "line 1", "'prompt' is empty"),
    check("address", "p.jsonl", lines(chosen="https://example.org/a.png"), "line 1", "web address"),
    check("bucket", "p.jsonl", lines(chosen="s3://bucket/a.png"), "line 1", "web address"),
    check("base64", "p.jsonl", lines(chosen="iVBORw0KGgo" * 500), "line 1", "'chosen' holds an image as text"),
    check("data-url", "p.jsonl", lines(chosen="data:image/png;base64,iVBOR"), "line 1", "image as text"),
    check("drive", "p.jsonl", lines(chosen="C:\\sets\\a.png"), "line 1", "Windows path"),
    check("long-name", "p.jsonl", lines(chosen="x" * 900), "line 1", "does not exist", lacks=("File name too long",)),
    check("missing", "p.jsonl", lines(chosen="gone.png"), "line 1", "gone.png", "does not exist"),
    check("excel", "p.xlsx", b"PK\x03\x04", "unknown kind of file '.xlsx'", ".csv"),
    check("zip-as-csv", "p.csv", b"PK\x03\x04" + bytes(range(256)) * 4, "p.csv", "not text"),
    check("not-parquet", "p.parquet", b"PAR1 and no more", "not a readable parquet file"),
    check("not-arrow", "p.arrow", b"ARROW1 and no more", "not a readable arrow file"),
    check("lfs-pointer", "p.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    check("web-page", "p.csv", "<!DOCTYPE html>\n<html>404</html>\n", "is a web page"),
    Case("check-address", "data check https://example.org/p.parquet", ("is a web address", "not downloaded")),
    Case("check-long-source-name", f"data check {'x' * 300}.jsonl", ("cannot be read",)),
    check("other-columns", "p.jsonl", '{"image": "a.png", "score": 3}\n', "line 1", "image, score", "pickapic has"),
    check("wrong-format", "p.jsonl", lines(), "line 1", "not of the format pickapic", "caption", "data.format=table",
          options="--format pickapic"),
    taken("contradiction", "p.jsonl", lines({}, {"chosen": "b.png", "rejected": "a.png"}), "contradictory pairs: 1",
          "p.jsonl line 2 prefers the opposite of p.jsonl line 1"),
    check("same-image", "p.jsonl", lines(rejected="a.png"), "same image in all"),
    taken("long-prompts", "p.jsonl", lines(prompt="cat " * 80), "CLIP encoders truncate (more than 75 tokens): 1"),

    Case("pickapic", "data check p.parquet", ("1 pairs", "2 ties"), True, folder({"p.parquet": [
        PICK | {"has_label": True}, PICK | {"label_0": 0.5, "label_1": 0.5, "has_label": True},
        PICK | {"has_label": False}]})),
    Case("pickapic-addresses", "data check p.parquet", ("row 1", "web addresses only"), given=folder({"p.parquet": [
        {"caption": "a", "jpg_0": None, "image_0_url": "https://example.org", "label_0": 1.0, "label_1": 0.0}]})),
    Case("pickapic-both-win", "data check p.parquet", ("row 1", "label_1"), given=folder({"p.parquet": [
        PICK | {"label_1": 1.0}]})),
    check("hpdv2", "train.json", json.dumps([{"prompt": "a", "file_path": ["a.png", "b.png"],
                                              "human_preference": [0, 1], "user_hash": "x"}]), "1 pairs",
          succeeds=True),
    check("hpdv2-annotators", "test.json", json.dumps([
        {"prompt": "a", "image_path": ["a.png", "b.png", "sub/c.png"],
         "raw_annotations": [{"rank": [1, 2, 3], "user_hash": "x"}, {"rank": [2, 1, 3], "user_hash": "y"}]}]),
        "2 pairs", succeeds=True),
    check("hpdv2-one-short", "train.json", json.dumps([{"prompt": "a", "file_path": ["a.png", "b.png"],
                                                        "human_preference": [1]}]), "entry 1", "human_preference"),
    check("hpdv2-no-number", "test.json", '[{"prompt": "a", "image_path": ["a.png", "b.png"], "rank": [NaN, 1]}]',
          "entry 1", "numbers in"),
    check("hpdv3", "p.json", json.dumps([
        {"prompt": "a", "path1": "a.png", "path2": "b.png", "choice_dist": [9, 2], "confidence": 0.9},
        {"prompt": "a", "path1": "a.png", "path2": "sub/c.png", "choice_dist": [5, 5]}]), "1 pairs", "1 ties",
        succeeds=True),
    check("imagereward", "p.jsonl", "".join(json.dumps({"prompt_id": "1", "prompt": "a", "image_path": name,
                                                        "rank": rank, "overall_rating": 3}) + "\n"
                                            for name, rank in (("a.png", 1), ("b.png", 2), ("sub/c.png", 2))),
          "2 pairs", succeeds=True),
    check("imagereward-pairs", "p.jsonl", json.dumps({"prompt": "a", "img_better": "a.png", "img_worse": "b.png"}),
          "1 pairs", succeeds=True),

    splits("hub-snapshot", {"set/README.md": [], "set/data/train-00000-of-00002.parquet": [GOOD],
                            "set/data/train-00001-of-00002.parquet": [GOOD | {"prompt": "b"}],
                            "set/data/test-00000-of-00001.parquet": [GOOD | {"prompt": "c"}]}, "2 pairs of 2"),
    splits("test", {"set/train.jsonl": [GOOD], "set/test.jsonl": [GOOD, GOOD]}, "2 pairs", split="test"),
    splits("folders", {"set/train/0.jsonl": [GOOD], "set/val/0.jsonl": [GOOD, GOOD]}, "2 pairs", split="validation"),
    splits("of-its-own", {"set/validation_unique-00000-of-00001.parquet": [GOOD],
                          "set/validation-00000-of-00001.parquet": [GOOD, GOOD]}, "2 pairs", split="validation"),
    splits("absent", {"set/train.jsonl": [GOOD], "set/test.jsonl": [GOOD]}, "no such split", "test, train",
           split="validation", succeeds=False),
    splits("none", {"set/pairs.jsonl": [GOOD]}, "no such split", "it has train", split="test", succeeds=False),
    splits("metadata-beside", {"set/dataset_infos.json": [{"x": 1}], "set/pairs.jsonl": [GOOD]}, "1 pairs"),
    splits("no-table", {"set/readme.txt": []}, "the folder holds no table", succeeds=False),
    Case("split-of-a-file", "data check pairs.jsonl --split test", ("one file", "no splits"),
         given=PNGS | {"pairs.jsonl": lines()}),
    Case("split-saved", "data check set --media-root . --split train", ("3 pairs",), True, saved_by_datasets),
    Case("split-saved-absent", "data check set --split val", ("no such split", "test, train"), given=saved_by_datasets),

    trained("broken", lines({}, {"chosen": "half.png"}), "pairs.jsonl line 2", "data.on_error=skip"),
    trained("several-broken", lines({"chosen": "gone.png"}, {}, {"prompt": ""}), "line 1", "line 3", "is empty"),
    trained("missing", lines({}, {"chosen": "gone.png"}), "line 2", "gone.png", "data.on_error=skip"),
    trained("too-many-broken", lines({}, {"chosen": "half.png"}), "1 of 2 rows", "data.max_skipped", "line 2",
            options="data.on_error=skip"),
    trained("identical", lines({"rejected": "a.png"}, {"rejected": "a.png"}), "same image in all 2 pairs"),
    trained("all-held-out", lines(), "data.holdout", "1 prompt;", options="data.holdout=0.999"),
    trained("on-error-unknown", lines(), "data.on_error", "'stop' or 'skip'", options="data.on_error=ignore"),

    prompts("bom", "p.txt", "\ufeffa cat\r\n", "samples", succeeds=True),
    prompts("comments-only", "p.txt", "# mine\n#\n\n", "holds no prompt"),
    prompts("image", "p.txt", PNGS["a.png"], "p.txt", "not text"),
    prompts("nul", "p.txt", "a cat\na\x00b\n", "p.txt"),
    prompts("missing", "p.txt", "", "holds no prompt"),
    prompts("table", "p.csv", "id;Prompt\n1;a cat, sleeping\n", succeeds=True),
    prompts("list", "p.json", '["a cat", "a dog"]', succeeds=True),
    prompts("no-column", "p.csv", "id,words\n1,a cat\n", "p.csv line 2", "no column of prompts", "id, words"),

    votes("excel", "\ufeffprompt;a_seed;b_seed;choice\r\na cat;1;2;A \r\na cat;18446744073709551615;4.0;b\r\n",
          "guard", succeeds=True),
    votes("capitals", "Prompt;A_Seed;B_Seed;Choice\na cat;1;2;TIE\na cat;3;4;B\n", "guard", succeeds=True),
    votes("seed-too-large", "prompt,a_seed,b_seed,choice\na cat,18446744073709551616,2,a\n", "line 2", "whole numbers"),
    votes("seed-date", "prompt,a_seed,b_seed,choice\na cat,2024-01-02,2,a\n", "line 2", "whole numbers"),
    votes("same-seed", "prompt,a_seed,b_seed,choice\na cat,2,2,a\n", "line 2", "the same"),
    votes("other-columns", "prompt,seed1,seed2,winner\na cat,1,2,a\n", "line 2", "a_seed is missing", "winner"),

    annotated("label", "j.csv", "\ufeffprompt;a;b;quality\r\nx;a.png;b.png;better\r\n", "line 2", "'better'",
              "allowed"),
    annotated("missing", "j.csv", "prompt;a;b;quality\nx;gone.png;b.png;A \n", "line 2", "gone.png"),
    annotated("deep", "j.jsonl", DEEP, "line 1", "too deep"),
    annotated("empty", "j.csv", "", "j.csv", "holds no"),
    annotated("huge", "j.jsonl", json.dumps({"prompt": "x", "a": "a.png", "b": "b.png", "quality": "a",
                                          "quality_a": 10**400}) + "\n", "line 1", "too large"),
    annotated("nothing-labelled", "j.jsonl", '{"prompt": "x", "a": "a.png", "b": "b.png"}\n', "line 1", "no label"),

    Case("layout-refused", "benchmark layout samples --suite t2i-compbench:suite.txt -o out",
         ("no prompt of", "lies outside"),
         given=LAYOUT),
    Case("layout-no-prompt", "benchmark layout samples --suite geneval:s.jsonl -o out", ("line 1", "'prompt'"),
         given=LAYOUT | {"s.jsonl": '{"tag": "x"}\n'}),
    Case("layout-not-json", "benchmark layout samples --suite geneval:s.jsonl -o out", ("line 2", "JSON"),
         given=LAYOUT | {"s.jsonl": '{"prompt": "x"}\nnonsense\n'}),
    Case("layout-deep", "benchmark layout samples --suite vbench:s.json -o out", ("s.json", "too deep"),
         given=LAYOUT | {"s.json": "[" * 100_000}),
    Case("layout-vbench-object", "benchmark layout samples --suite vbench:s.json -o out", ("expected a list",),
         given=LAYOUT | {"s.json": "{}"}),
    Case("layout-latin-1", "benchmark layout samples --suite t2i-compbench:s.txt -o out", ("no prompt of",),
         given=LAYOUT | {"s.txt": "café".encode("latin-1")}),
    Case("layout-file-for-folder", "benchmark layout samples --suite dpg-bench:suite.txt -o out", ("no such folder",),
         given=LAYOUT),
]
