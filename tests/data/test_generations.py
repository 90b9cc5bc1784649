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
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "held_out", "step": 0, "prompts": ["x", "y"]}))
    entries = find_generations(tmp_path)
    assert [(e.path, e.prompt) for e in entries] == [("samples/step-00000020/001-0.png", "y")]


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda p: p / "gone", "no such file"),
        (lambda p: p, "holds no image"),
        (lambda p: (p / "x.zip").write_bytes(b"") or p / "x.zip", "manifest"),
    ],
)
def test_sources_that_hold_nothing_are_named(tmp_path, make, word):
    with pytest.raises(UserError, match=word):
        find_generations(make(tmp_path))


def image(file, colour="red", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(file, **options)


def test_what_is_left_out_is_named_with_why(tmp_path):
    for name in ("a.png", "b.bmp", "._a.png", "one.png"):
        image(tmp_path / name)
    for name in ("x.jxl", "y.jxl", "w.safetensors", "Thumbs.db", "notes.md", "a.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "one.mp4").write_bytes(b"x")
    found = find_generations(tmp_path)
    assert [entry.path for entry in found] == ["a.png", "b.bmp", "one.mp4"]
    notes = " | ".join(found.notes)
    assert "2 files ending in .jxl (x.jxl, y.jxl): install pillow-jxl-plugin" in notes and "w.safetensors" in notes
    assert "1 image with the name of a video (one.png)" in notes
    assert not any(word in notes for word in ("Thumbs", "notes.md", "._a"))


def test_our_own_overviews_are_known_by_what_they_are_and_not_by_their_name(tmp_path):
    from visalign.media.video_files import save_sheet

    image(tmp_path / "grid.png")
    image(tmp_path / "made" / "grid.png")
    image(tmp_path / "made" / "00000.png")
    (tmp_path / "made" / "samples.jsonl").write_text('{"prompt": "x", "file": "00000.png"}\n')
    save_sheet([("x", [Image.new("RGB", (8, 8))])], tmp_path / "drawn" / "sheet.png")
    found = find_generations(tmp_path)
    assert [entry.path for entry in found] == ["grid.png", "made/00000.png"] and "2 contact sheets" in found.notes[0]


def test_every_place_of_a_prompt_in_its_order(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    embedded = PngInfo()
    embedded.add_text("parameters", "from within\nSteps: 2, Seed: 5")
    for name in ("both_01.png", "within_01.png"):
        image(tmp_path / name, pnginfo=embedded)
    image(tmp_path / "v1.5_x.png")
    (tmp_path / "both_01.txt").write_bytes("\ufefffrom beside".encode("utf-16-le"))
    (tmp_path / "v1.5_x.png.txt").write_text("with its ending")

    def prompts(kind):
        return [(entry.prompt, entry.seed) for entry in find_generations(tmp_path, kind)]

    assert prompts("auto") == [("from beside", None), ("with its ending", None), ("from within", 5)]
    assert prompts("metadata") == [("from within", 5), ("", None), ("from within", 5)]
    assert prompts("sidecar") == [("from beside", None), ("with its ending", None), ("", None)]
    assert prompts("names") == [("both", None), ("v1.5 x", None), ("within", None)]
    assert find_generations(tmp_path, "sidecar").prompt_hint.startswith("1 of 3 files have no prompt; write it")


def test_the_imagefolder_layout_names_of_windows_and_a_single_image(tmp_path):
    image(tmp_path / "sub" / "a.png")
    lines = [{"file_name": "sub\\a.png", "text": "cafe\u0301 "}, {"image": {"bytes": "x"}, "caption": "y"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    good, embedded = find_generations(tmp_path)
    assert (good.prompt, good.sample().image.size) == ("caf\u00e9", (8, 8))
    assert "'image' is not a path of a file" in embedded.problem
    (tmp_path / "sub" / "a.txt").write_text("one")
    assert [(e.path, e.prompt) for e in find_generations(tmp_path / "sub" / "a.png")] == [("a.png", "one")]
    (tmp_path / "list.json").write_text(json.dumps([{"caption": "z", "path": "sub/a.png", "seed": "7.0"}]))
    assert [(e.prompt, e.seed) for e in find_generations(tmp_path / "list.json")] == [("z", 7)]


def test_names_that_are_not_utf_8_are_shown_and_stay_openable(tmp_path):
    import os

    image(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    [entry] = find_generations(tmp_path, "names")
    assert entry.path == "caf\\xe9.png" and entry.prompt == "caf\u00e9" and entry.sample().image.size == (8, 8)
