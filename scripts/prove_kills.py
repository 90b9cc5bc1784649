"""Does a killed command end with the same results? kill -9 at random moments, then the same command again.

    python scripts/prove_kills.py offline online reward score evaluate demo
    python scripts/prove_kills.py online --kills 100 --out kills         # KIND.json and KIND.md in kills/

For each kind: the command is run whole, twice, and both must be the same to the bit (weights, optimiser, metrics,
export, tables). Then it is started in new folders, killed after a random time, continued, killed again ..., until
--kills kills were made; whatever it ends with is compared with the whole run. The demo is killed while voters vote:
every vote that the server had answered must be in the database, once. Commands run in forks of a process that has
imported everything, so that a kill costs less than an import. Threads are as the environment says (OMP_NUM_THREADS).
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from kills.commands import KINDS
from kills.demo import prove_demo
from kills.killing import prove


def table_of(rows: list[dict]) -> str:
    lines = ["| what was killed | kills | runs | ended the same, to the bit | run twice, the same |",
             "|---|---|---|---|---|"]
    lines += [f"| {row['kind']} | {row['kills']} | {row['runs']} | {row['same']} of {row['runs']} | "
              f"{ {True: 'yes', False: 'no', None: ''}[row['run twice']]} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "demo"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    import_everything(args.kinds)
    rows = []
    for name in args.kinds:
        with tempfile.TemporaryDirectory(prefix=f"kills-{name}-") as folder:
            chance, root = random.Random(args.seed), Path(folder)
            found = prove_demo(args.kills, root, chance) if name == "demo" else \
                prove(name, KINDS[name], args.kills, root, chance)
        rows.append(found.as_dict())
        (args.out / f"{name}.json").write_text(json.dumps(found.as_dict(), indent=2) + "\n")
        (args.out / f"{name}.md").write_text(table_of(rows[-1:]) + "\n")
    print(table_of(rows))
    for line in [line for row in rows for line in row["differing"]]:
        print(line)
    sys.exit(1 if any(row["differing"] for row in rows) else 0)


def import_everything(kinds: list[str]) -> None:
    """What the commands would import; nothing may be computed here, or a fork would wait for threads it has not."""
    import visalign.cli
    import visalign.evaluation.reward_eval
    import visalign.jobs.evaluate
    import visalign.jobs.score
    import visalign.jobs.train
    import visalign.reports.run
    import visalign.trainers.reward.loop

    import diffusers  # isort: skip
    import open_clip  # isort: skip
    import transformers  # isort: skip

    if "demo" in kinds:
        import visalign_demo

        visalign_demo.DemoSettings  # noqa: B018  loaded on first use
    for name in ("StableDiffusion3Pipeline", "SD3Transformer2DModel", "AutoencoderKL"):
        getattr(diffusers, name)
    for name in ("CLIPTextModelWithProjection", "T5EncoderModel", "CLIPTokenizer", "T5TokenizerFast"):
        getattr(transformers, name)
    assert open_clip and visalign


if __name__ == "__main__":
    main()
