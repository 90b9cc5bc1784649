"""`visalign bench`: a public prompt suite, from its prompts to its own table."""

from pathlib import Path

import click

from visalign.cli.options import device_option, out_option, ranged, sampling_options, set_option
from visalign.cli.verbs import Verb
from visalign.validation.ranges import FewOrNone, Seed


@click.command(cls=Verb)
@click.argument("suite")
@click.argument("sources", nargs=-1, required=True)
@out_option("bench")
@click.option("--with", "scorer", multiple=True, metavar="KEY=VALUE", help="A setting of what scores the suite, such "
              "as detector=facebook/detr-resnet-50 or vqa=vlm:http://HOST:8000/v1; may be repeated.")
@click.option("--samples-per-prompt", "seeds", default=0, show_default="the suite's", type=ranged(FewOrNone))
@sampling_options()
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@set_option
@device_option
def bench(suite: str, sources: tuple[str, ...], out: Path, scorer: tuple[str, ...], settings: tuple[str, ...],
          **given) -> None:
    """Score SOURCES on a public prompt suite and print its own table, with intervals over prompts.

    SUITE is geneval:FILE, dpg-bench:FOLDER, t2i-compbench:FILE, text:FILE or vbench:FILE (temporal flickering). SOURCE
    or NAME=SOURCE is as for `compare`; what a model has not made yet is made.

    \b
    visalign bench geneval:evaluation_metadata.jsonl base=tiny-sd3 run=runs/flow-grpo
    visalign bench dpg-bench:prompts samples --with vqa=vlm:http://localhost:8000/v1
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.bench import run_suite
    from visalign.jobs.evaluate import EvaluationRequest

    given["device"] = str(pick_device(given["device"]))
    for result in run_suite(suite, sources, scorer, EvaluationRequest(settings=settings, **given), out):
        click.echo("\n".join(result.lines()))
    click.echo(f"every number in {out / 'results.json'}")
