"""Which files a source holds, for which prompts; what is refused."""

import json

import pytest
from PIL import Image

from visalign.data.folder import prompt_of_name
from visalign.data.generations import find_generations
from visalign.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    for name in ("a_red_apple-03.png", "deep/b.jpg", "clip.gif", "grid.png", "notes.md"):
        Image.new("RGB", (8, 8), "red").save(root / name, "PNG")
    (root / "deep" / "b.txt").write_text("a büs 🚌\n", encoding="utf-8")
    return root


def test_prompts_come_from_sidecars_and_from_names_only_when_asked(folder):
    found = {entry.path: entry.prompt for entry in find_generations(folder)}
    assert found == {"a_red_apple-03.png": "", "clip.gif": "", "grid.png": "", "deep/b.jpg": "a büs 🚌"}
    assert {e.path: e.prompt for e in find_generations(folder, "names")}["a_red_apple-03.png"] == "a red apple"


@pytest.mark.parametrize(
    "stem, prompt", [("a_red_apple-03", "a red apple"), ("cat face 2", "cat face"), ("x-ray", "x-ray")]
)
def test_prompt_of_a_name(stem, prompt):
    assert prompt_of_name(stem) == prompt


def test_manifests_name_files_prompts_and_seeds(folder):
    lines = [{"prompt": "x", "image": "deep/b.jpg", "seed": 3}, {"prompt": "y", "video": "clip.gif"}, {"prompt": "z"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json")
    entries = find_generations(folder / "list.jsonl")
    assert [(e.prompt, e.seed) for e in entries[:2]] == [("x", 3), ("y", None)] and entries[0].sample().image.size == (
        8,
        8,
    )
    assert "line 3: names no file" in entries[2].problem and "not readable as JSON" in entries[3].problem


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "link.png"])
def test_files_outside_the_manifests_folder_are_refused(folder, path):
    Image.new("RGB", (4, 4)).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "list.csv").write_text(f"prompt,image\nx,{path}\n")
    entry = find_generations(folder / "list.csv")[0]
    with pytest.raises(UserError, match="lies outside"):
        entry.sample()


def test_a_wider_media_root_can_be_named(folder):
    Image.new("RGB", (4, 4)).save(folder.parent / "other.png")
    (folder / "list.csv").write_text("prompt,image\nx,other.png\n")
    assert find_generations(folder / "list.csv", media_root=folder.parent)[0].sample().image.size == (4, 4)


def test_a_runs_newest_samples_have_the_held_out_prompts(tmp_path):
    for step in (0, 20):
        (tmp_path / "samples" / f"step-{step:08d}").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"step-{step:08d}" / "001-0.png")
    (tmp_path / "config.yaml").write_text("model: {}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "held_out", "prompts": ["x", "y"]}))
    entries = find_generations(tmp_path)
    assert [(e.path, e.prompt) for e in entries] == [("samples/step-00000020/001-0.png", "y")]


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda p: p / "gone", "no such file"),
        (lambda p: p, "holds no picture"),
        (lambda p: (p / "x.zip").write_bytes(b"") or p / "x.zip", "manifest"),
    ],
)
def test_sources_that_hold_nothing_are_named(tmp_path, make, word):
    with pytest.raises(UserError, match=word):
        find_generations(make(tmp_path))
