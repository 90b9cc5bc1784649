"""Images, videos, their prompts, and what is written about them."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.hostile.case import Case
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes


def image(colour: str = "red", kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def pages(kind: str) -> bytes:
    return image(kind=kind, save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")])


def told(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return image(pnginfo=info)


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def not_utf8(folder: Path) -> None:
    (folder / "pics").mkdir()
    for name in (b"caf\xe9.png", b"b.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), b"pics", name))).write_bytes(image())


CLIP = to_video_bytes(Video([Image.new("RGB", (16, 16), (40 * i, 0, 0)) for i in range(4)], 4.0))
A1111 = "a red fox\nNegative prompt: a dog\nSteps: 20, Sampler: Euler, Seed: 7, Size: 16x16"
GOOD = {"pics/a.png": image(), "pics/b.png": image("blue")}
PROMPTED = GOOD | {"pics/a.txt": "a red fox", "pics/b.txt": "a blue bird"}
BOTH = {f"{side}/{name}": content for side in ("x", "y") for name, content in {
    "a.png": image(), "a.txt": "a red fox", "b.png": image("blue"), "b.txt": "a blue bird"}.items()}
SCORE = "score pics -r contrast --no-gallery"
SCORED = "score pics -r tiny-clip --no-gallery"


def reads(id: str, given: dict, *says: str, command: str = SCORE) -> Case:
    """Something odd that is taken."""
    return Case(id, command, says, True, given, writes=("scores.parquet",))


def refuses(id: str, given: dict, *says: str, command: str = SCORE) -> Case:
    return Case(id, command, says, False, given)


CASES = [
    reads("kinds-of-images", GOOD | {"pics/c.avif": image(kind="AVIF"), "pics/d.jfif": image(kind="JPEG"),
                                       "pics/e.ppm": image(kind="PPM"), "pics/f.BMP": image(kind="BMP"),
                                       "pics/g.jp2": image(kind="JPEG2000"), "pics/grid.png": image()},
          "8 rows", "1 .avif", "0 files unreadable"),
    reads("clips-in-odd-boxes", {"pics/a.ts": CLIP, "pics/b.m4v": CLIP, "pics/c.mov": CLIP}, "3 rows",
          "0 files unreadable"),
    reads("jpeg-xl-named", GOOD | {"pics/c.jxl": b"\xff\x0a"}, "2 rows", "left out 1 file ending in .jxl (c.jxl)",
          "pillow-jxl-plugin"),
    reads("others-named", GOOD | {"pics/w.safetensors": b"x", "pics/v.svg": b"<svg/>", "pics/noending": b"x"},
          "w.safetensors", "export it as PNG", "without an ending (noending)"),
    reads("what-systems-leave-behind", GOOD | {"pics/._a.png": b"x", "pics/Thumbs.db": b"x", "pics/.DS_Store": b"x",
                                               "pics/desktop.ini": b"x", "pics/.cache/a.png": b"x"},
          "2 rows", "0 files unreadable"),
    reads("poster-of-a-clip", {"pics/a.mp4": CLIP, "pics/a.png": image()}, "1 rows",
          "1 image with the name of a video (a.png)"),
    reads("pages", {"pics/a.tiff": pages("TIFF")}, "1 rows"),
    reads("wrong-endings", {"pics/a.png": image(kind="JPEG"), "pics/b.jpg": CLIP, "pics/c.mp4": image(kind="GIF")},
          "3 rows", "0 files unreadable"),
    reads("some-unreadable", GOOD | {"pics/c.png": b"nope"}, "1 files unreadable", "unreadable: c.png"),
    Case("not-utf-8", SCORE, ("2 rows",), True, not_utf8),
    refuses("nothing-readable", {"pics/a.png": b"nope", "pics/b.mp4": b"nope"}, "none of its 2 files could be read",
            "a.png"),
    refuses("nothing-there", {"pics/a.jxl": b"\xff\x0a"}, "holds no image and no video", "a.jxl"),
    refuses("empty-files", {"pics/a.png": b"", "pics/b.webm": b""}, "none of its 2 files"),
    refuses("bomb", {"pics/a.png": bomb(60_000, 60_000)}, "a.png", "bomb"),
    refuses("bomb-of-our-limit", {"pics/a.png": bomb(12_000, 12_000)}, "12000x12000", "possible decompression bomb"),
    refuses("postscript-as-png", {"pics/a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"},
            "not a readable image"),
    refuses("no-such-folder", {}, "no such file or folder"),
    refuses("a-text-as-source", {"x.zip": b"x"}, "neither a folder", "x.zip", command="score x.zip -r contrast"),
    refuses("a-name-too-long", {}, "aaa", command=f"score {'a' * 5000} -r contrast"),
    refuses("nobody-s-home", {}, "nobody", command="score '~nobody-here/pics' -r contrast"),
    reads("one-image", GOOD, "1 rows", command="score pics/a.png -r contrast --no-gallery"),
    reads("caption-and-file-name", GOOD | {"m.jsonl": '{"file_name": "pics/a.png", "caption": "a red fox"}\n'},
          "scored 1 of 1", command="score m.jsonl -r tiny-clip --no-gallery"),
    reads("imagefolder", PROMPTED | {"pics/metadata.csv": "file_name,text\na.png,a red fox\n"}, "scored 1 of 1",
          command=SCORED),
    reads("json-list", GOOD | {"m.json": json.dumps([{"image": "pics\\a.png", "prompt": "a red fox"}])},
          "scored 1 of 1", command="score m.json -r tiny-clip --no-gallery"),
    refuses("images-elsewhere", GOOD | {"lists/m.jsonl": '{"image": "../pics/a.png", "prompt": "x"}\n'},
            "lies outside", "--media-root", command="score lists/m.jsonl -r contrast"),
    reads("images-elsewhere-named", GOOD | {"lists/m.jsonl": '{"image": "a.png", "prompt": "x"}\n'}, "1 rows",
          command="score lists/m.jsonl -r contrast --media-root pics --no-gallery"),
    refuses("seeds-that-are-none", GOOD | {"m.csv": "image,prompt,seed\npics/z.png,x,nan\n"}, "none of its 1 files",
            command="score m.csv -r contrast"),
    refuses("no-prompt", GOOD, "2 of 2 files have no prompt", "NAME.txt", "--prompts-from names", command=SCORED),
    reads("prompt-in-the-file", {"pics/00007.png": told(parameters=A1111)}, "scored 1 of 1", command=SCORED),
    reads("prompt-beside", GOOD | {"pics/a.txt": A1111.encode("utf-16"), "pics/b.caption": b"a bird"},
          "scored 2 of 2", command=SCORED),
    reads("prompts-from-names", GOOD, "scored 2 of 2", command=f"{SCORED} --prompts-from names"),
    reads("metadata-of-any-shape", {
        "pics/a.png": told(prompt="[" * 50_000), "pics/b.png": told(workflow='{"nodes": [1, {"id": {}}], "links": 3}'),
        "pics/c.png": told(prompt='{"1": {"inputs": {"positive": ["1", 0]}}}', parameters="Steps: 1")}, "3 rows"),
    Case("prompts-from-two-places", "score pics --prompts-from sidecar --prompts-from-names", ("exclude",), given=GOOD),
    refuses("sidecar-that-is-no-text", {"pics/a.png": image(), "pics/a.txt": bytes(range(256))},
            "a.txt", command=SCORED),
    refuses("pairs-nothing-read", GOOD | {"lists/m.jsonl": '{"image": "../pics/a.png", "prompt": "x"}\n'},
            "lies outside", command="data pairs lists/m.jsonl -o out -r contrast"),
    refuses("pairs-without-prompts", GOOD, "have no prompt", command="data pairs pics -o out -r contrast"),
    refuses("pairs-over-other-scores", PROMPTED | {"out/scores.parquet": b"nope"}, "scores.parquet",
            command="data pairs pics -o out -r contrast"),
    refuses("compare-name-of-two-lines", BOTH, "one line", command="compare 'a\nb=x' c=y -r contrast"),
    refuses("compare-no-name", BOTH, "NAME=SOURCE", command="compare =x c=y -r contrast"),
    refuses("compare-long-name", BOTH, "at most 80", command=f"compare {'a' * 90}=x c=y -r contrast"),
    refuses("compare-without-prompts", BOTH | {"x/a.txt": " "}, "a.png has no prompt",
            command="compare a=x c=y -r contrast"),
    refuses("demo-name-of-a-control", BOTH, "one line", command="demo 'a\x07=x' c=y"),
    Case("compare-odd-names", "compare 'a$b\\d_{=x' '../../up=y' '_<i>=y' -r contrast --cache f.sqlite",
         ("report in comparison",), True, BOTH, writes=("comparison/report.html",)),
    Case("compare-normal-forms", "compare base=x other=y -r contrast --cache f.sqlite", ("report in",), True,
         BOTH | {"x/a.txt": "cre\u0300me ", "y/a.txt": "cr\u00e8me"}, lacks=("were left out, since not all",)),
    Case("evaluate-version-in-the-name", "evaluate run-v1.5 -r contrast --cache f.sqlite",
         ("report in evaluations/run-v1.5/",), True,
         {name.replace("x/", "run-v1.5/"): content for name, content in BOTH.items()},
         writes=("evaluations/run-v1.5/results.json",)),
]
