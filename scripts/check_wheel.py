"""Are the sdist and the wheel whole? Builds both, installs the wheel into an empty folder and runs it from another.

    python scripts/check_wheel.py [--out dist]

The wheel is built from the sdist, so that what is missing there is missing in both. Dependencies, build tools included,
are those of the environment that runs this.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELD = {
    "py.typed": ("visalign/py.typed", "visalign_demo/py.typed"),
    "embedded models": ("visalign/assets/tiny-sd3/", "visalign/assets/tiny-sdxl/", "visalign/assets/tiny-wan/",
                        "visalign/assets/tiny-edit/", "visalign/assets/tiny-clip/", "visalign/assets/tiny-reward/",
                        "visalign/assets/tiny-group/"),
    "emoji and their licences": ("visalign/assets/emoji/emoji.parquet", "visalign/assets/emoji/edits.parquet",
                                 "visalign/assets/emoji/LICENSES.md"),
    "templates": ("visalign/reports/templates/", "visalign_demo/templates/"),
    "the demo's styles and scripts": ("visalign_demo/static/",),
    "recipes": ("quickstart.yaml", "sdxl_dpo.yaml", "online/flow_grpo.yaml", "reward_model/tiny_reward.yaml"),
}
"""What a wheel must hold, as parts of names."""
NOT_HELD = ("tests/", "scripts/", "docs/", "__pycache__")
"""Beginnings or parts of names that a wheel has no use for."""
COMMANDS = (
    ("--version",), ("--help",), ("doctor",), ("train", "quickstart", "--dry-run"), ("train", "sdxl_dpo", "--help"),
    ("train", "flow_grpo_fast", "--dry-run"), ("quickstart", "--help"), ("demo", "--help"),
)
"""What a user types first, away from any checkout."""


def built(folder: Path) -> Path:
    """Build sdist and wheel into `folder`; the wheel."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT)
    (wheel,) = folder.glob("visalign-*.whl")
    return wheel


def missing_in(names: list[str]) -> list[str]:
    """What a wheel of these names lacks, or holds without use."""
    lacks = [f"{what}: no {part}" for what, parts in HELD.items() for part in parts
             if not any(part in name for name in names)]
    return lacks + [f"of no use: {name}" for name in names if name.startswith(NOT_HELD) or "__pycache__" in name]


def run(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> str:
    """What a command prints. Ends the program, with what it said, when it fails."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def check(wheel: Path, root: Path) -> None:
    """Install a wheel below `root` and run it from an empty folder. Ends the program when something is missing."""
    lacks = missing_in(zipfile.ZipFile(wheel).namelist())
    if lacks:
        sys.exit(f"{wheel.name}:\n  " + "\n  ".join(lacks))
    installed, empty = root / "installed", root / "empty"
    empty.mkdir()
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", str(installed),
         str(wheel)], empty)
    environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    place = run([sys.executable, "-c", "import visalign; print(visalign.__file__)"], empty, environment).strip()
    if installed not in Path(place).parents:
        sys.exit(f"another visalign was imported: {place}")
    version = wheel.name.split("-")[1]
    for words in COMMANDS:
        said = run([str(installed / "bin" / "visalign"), *words], empty, environment)
        if words == ("--version",) and version not in said:
            sys.exit(f"the wheel is {version}, visalign --version says {said.strip()}")
        print(f"visalign {' '.join(words)}: ok", flush=True)
    left = sorted(path.name for path in empty.iterdir())
    if left:
        sys.exit(f"left behind in the working directory: {', '.join(left)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to keep the sdist and the wheel in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as folder:
        root = Path(folder)
        wheel = built(root / "dist")
        check(wheel, root)
        if args.out:
            shutil.copytree(wheel.parent, args.out, dirs_exist_ok=True)
    print(f"{wheel.name}: whole, and it runs outside the checkout")


if __name__ == "__main__":
    main()
