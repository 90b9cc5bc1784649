"""Copy a trained unified reward's folder with its weights in half precision, as tiny-reward is shipped.

    python scripts/embedded/ship_reward.py runs/tiny-reward/reward visalign/assets/tiny-reward
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    shutil.copytree(args.source, args.target, dirs_exist_ok=True)
    weights = load_file(args.source / "reward.safetensors")
    save_file({name: value.half().contiguous() for name, value in weights.items()},
              args.target / "reward.safetensors")


if __name__ == "__main__":
    main()
