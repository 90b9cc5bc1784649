"""Build the embedded image set: drawn emoji in three styles, with captions at three levels of generality.

    npm pack @iconify-json/fluent-emoji-flat @iconify-json/fluent-emoji @iconify-json/noto
    for f in *.tgz; do mkdir -p icons/${f%.tgz} && tar xzf $f -C icons/${f%.tgz}; done
    pip install resvg-py
    python scripts/build_emoji_data.py icons visalign/assets/emoji/emoji.parquet

One row is one drawing: `image` (WebP, lossless, 64x64 on white), `name`, `style`, `group`, `kind` (the general
word), `colours` (measured from the pixels, most frequent first), `split` and `captions`. A drawing with split
`held_out` (one style of every eighth concept) is never shown to an embedded model while it is trained.

A caption has a `level` (`name`: "red apple"; `colour`: "a red fruit"; `kind`: "a fruit"), a `split` (`train` or
`held_out`, for alignment runs) and `unseen` (true for colour-and-kind pairs kept out of pre-training altogether).
"""

import argparse
import colorsys
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

SIZE = 64
STYLES = {"flat": "fluent-emoji-flat", "glossy": "fluent-emoji", "noto": "noto"}

# group -> (general word, names as in the icon sets)
CONCEPTS = {
    "fruit": ("fruit", "grapes melon watermelon tangerine lemon banana pineapple mango red-apple green-apple pear "
              "peach cherries strawberry blueberries kiwi-fruit coconut"),
    "vegetable": ("vegetable", "tomato eggplant carrot ear-of-corn hot-pepper bell-pepper cucumber broccoli garlic "
                  "onion mushroom avocado potato leafy-green"),
    "meal": ("meal", "hamburger french-fries pizza hot-dog taco bread croissant pretzel cooking sushi cheese-wedge "
             "pancakes sandwich bacon"),
    "sweet": ("dessert", "soft-ice-cream doughnut cookie birthday-cake cupcake lollipop candy shortcake ice-cream "
              "chocolate-bar honey-pot custard"),
    "animal": ("animal", "dog-face cat-face tiger-face horse-face cow-face pig-face mouse-face rabbit-face "
               "monkey-face fox bear panda koala lion wolf frog hamster raccoon polar-bear"),
    "sea animal": ("sea animal", "fish tropical-fish blowfish octopus crab whale spouting-whale dolphin shark "
                   "lobster squid jellyfish turtle"),
    "bird": ("bird", "baby-chick front-facing-baby-chick penguin bird duck owl parrot flamingo swan rooster"),
    "bug": ("bug", "butterfly lady-beetle honeybee ant snail beetle bug spider cricket"),
    "plant": ("plant", "tulip sunflower rose hibiscus blossom cherry-blossom cactus palm-tree evergreen-tree "
              "deciduous-tree maple-leaf four-leaf-clover seedling herb potted-plant fallen-leaf"),
    "heart": ("heart", "red-heart pink-heart orange-heart yellow-heart green-heart blue-heart light-blue-heart "
              "purple-heart brown-heart black-heart grey-heart white-heart broken-heart sparkling-heart"),
    "face": ("face", "grinning-face smiling-face-with-heart-eyes smiling-face-with-sunglasses winking-face "
             "slightly-smiling-face neutral-face crying-face angry-face frowning-face sleeping-face star-struck "
             "face-with-tongue face-with-tears-of-joy nerd-face cowboy-hat-face clown-face smiling-face-with-halo "
             "nauseated-face cold-face alien"),
    "shape": ("shape", "red-circle orange-circle yellow-circle green-circle blue-circle purple-circle brown-circle "
              "black-circle red-square orange-square yellow-square green-square blue-square purple-square "
              "brown-square large-orange-diamond large-blue-diamond"),
    "sky": ("sky thing", "sun crescent-moon full-moon star glowing-star cloud rainbow snowflake sun-with-face "
            "droplet fire high-voltage sun-behind-cloud ringed-planet"),
    "ball": ("ball", "soccer-ball baseball basketball volleyball tennis american-football pool-8-ball softball"),
    "vehicle": ("vehicle", "automobile taxi bus fire-engine ambulance police-car sport-utility-vehicle tractor "
                "delivery-truck sailboat rocket airplane locomotive racing-car"),
}
RENAMED = {"tennis": "tennis ball", "cooking": "fried egg", "pool-8-ball": "eight ball", "bug": "caterpillar"}
COLOUR_WORDS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")


def colour_word(r: int, g: int, b: int) -> str:
    """The everyday word for one sRGB colour, components 0..255."""
    hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
    hue *= 360
    if value < 0.22:
        return "black"
    if saturation < 0.14:
        return "white" if value > 0.82 else "grey"
    if (hue < 45 and value < 0.66) or (hue < 40 and value < 0.75 and saturation < 0.65):
        return "brown"
    if hue < 12 or hue >= 345:
        return "pink" if saturation < 0.55 and value > 0.75 else "red"
    if hue < 34:
        return "orange"
    if hue < 68:
        return "yellow"
    if hue < 170:
        return "green"
    if hue < 255:
        return "blue"
    return "purple" if hue < 300 else "pink"


def measured_colours(rgba: np.ndarray) -> list[str]:
    """Colour words covering at least a quarter of the drawn pixels, most frequent first (one at least)."""
    drawn = rgba[rgba[..., 3] > 128][:, :3]
    counts = Counter(colour_word(*map(int, pixel)) for pixel in drawn)
    ranked = counts.most_common()
    return [word for i, (word, n) in enumerate(ranked) if i == 0 or n >= 0.25 * len(drawn)][:2]


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def render(icons: dict, name: str) -> np.ndarray:
    """One icon as uint8 RGBA [SIZE, SIZE, 4]."""
    icon = icons["icons"][name]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
           f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>')
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE * 2, height=SIZE * 2)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def on_white(rgba: np.ndarray) -> bytes:
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(Image.fromarray(rgba))
    buffer = io.BytesIO()
    canvas.convert("RGB").save(buffer, "WEBP", lossless=True, method=6)
    return buffer.getvalue()


def captions_of(name: str, kind: str, colours: list[str], unseen_pairs: set[str]) -> list[dict]:
    texts = [("name", name)] + [("colour", article(f"{c} {kind}")) for c in colours] + [("kind", article(kind))]
    rows = []
    for level, text in texts:
        unseen = level == "colour" and text in unseen_pairs
        held_out = unseen or (level != "kind" and stable_fraction("alignment " + text) < 0.3)
        rows.append({"text": text, "level": level, "split": "held_out" if held_out else "train", "unseen": unseen})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icons", type=Path, help="folder with the unpacked icon packages")
    parser.add_argument("output", type=Path, help="the parquet file to write")
    args = parser.parse_args()

    drawings = []
    for style, package in STYLES.items():
        folder = next(p for p in sorted(args.icons.iterdir()) if p.name.startswith(f"iconify-json-{package}-")
                      and p.name[len(f"iconify-json-{package}-")].isdigit())
        icons = json.loads((folder / "package" / "icons.json").read_text())
        for group, (kind, names) in CONCEPTS.items():
            for slug in names.split():
                if slug not in icons["icons"]:
                    print(f"{style}: no icon {slug}")
                    continue
                rgba = render(icons, slug)
                drawings.append((slug, style, group, kind, rgba, measured_colours(rgba)))

    pairs = sorted({article(f"{c} {d[3]}") for d in drawings for c in d[5]})
    unseen_pairs = {p for p in pairs if stable_fraction("pair " + p) < 0.12}
    held_out_style = {slug: list(STYLES)[int(stable_fraction("style " + slug) * 3)]
                      for slug in {d[0] for d in drawings} if stable_fraction("concept " + slug) < 0.125}
    rows = []
    for slug, style, group, kind, rgba, colours in drawings:
        name = RENAMED.get(slug, slug.replace("-", " "))
        rows.append({"image": on_white(rgba), "name": name, "style": style, "group": group, "kind": kind,
                     "colours": colours, "split": "held_out" if held_out_style.get(slug) == style else "train",
                     "captions": captions_of(name, kind, colours, unseen_pairs)})
    args.output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), args.output, compression="zstd")
    print(f"{len(rows)} drawings of {len({r['name'] for r in rows})} things, "
          f"{sum(r['split'] == 'held_out' for r in rows)} held out, {len(unseen_pairs)} of {len(pairs)} colour pairs "
          f"unseen, {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
