"""What `evaluate` and `compare` have in common: their options, and what they print."""

import math
from pathlib import Path

import click

from visalign.cli.options import (
    Names,
    device_option,
    ranged,
    samples_option,
    sampling_options,
    set_option,
    together,
)
from visalign.validation.ranges import Limit, Positive, Seed


class LabelRange(click.ParamType):
    """LOW:HIGH, two finite numbers of which the second is larger."""

    name = "range"

    def convert(self, value, param, ctx) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        low, _, high = value.partition(":")
        try:
            found = float(low), float(high)
        except ValueError:
            found = math.nan, math.nan
        if not (math.isfinite(found[0]) and math.isfinite(found[1]) and found[0] < found[1]):
            self.fail(f"{value} must be LOW:HIGH, such as 1:5", param, ctx)
        return found


measuring_options = together(
    click.option("--prompts", help="A text file, one prompt per line, or emoji:held_out, families:layout, "
                                   "geneval:FILE ... (default: the run's own)."),
    click.option("--max-prompts", type=ranged(Limit)),
    samples_option(16),
    set_option,
    sampling_options("the run's, or the model's own"),
    click.option("--seed", default=0, show_default=True, type=ranged(Seed)),
    click.option("--rewards", "-r", type=Names(may_be_none=True),
                 help="As for `score` (default: the run's, or tiny-reward,tiny-clip; "
                      "of texts relevance,repetition)."),
    click.option("--proxy", help="The reward that was optimised (default: the run's, or the first)."),
    click.option("--plan", "effect", type=ranged(Positive), metavar="EFFECT",
                 help="Say also how many prompts, seeds and votes would show a change of EFFECT standard deviations in "
                      "four of five cases."),
    click.option("--features", help="What embeds samples to measure diversity, an open_clip model, of texts a sentence "
                                   "encoder (default: the run's, or tiny-clip, or minilm)."),
    click.option("--reference", help="Real images, for fidelity and coverage (default: the base's samples)."),
    click.option("--oracle", type=click.Path(), metavar="LABELS",
                 help="Say also what LABELS, a table of a few samples with an oracle's label each, tell of all: the "
                      "mean label of each model by each reward (CJE)."),
    click.option("--oracle-label", default="label", show_default=True, metavar="COLUMN",
                 help="With --oracle: its column of labels: numbers, or good and bad."),
    click.option("--oracle-range", default="0:1", show_default=True, type=LabelRange(), metavar="LOW:HIGH",
                 help="With --oracle: the scale of the labels."),
    click.option("--oracle-random", is_flag=True,
                 help="With --oracle: the labelled samples of each model were drawn from its samples at random, so "
                      "that its mean label is unbiased whatever the reward is worth."),
    click.option("--lpips", help="AlexNet of torchvision, .safetensors or .pth, for LPIPS."),
    click.option("--cache", default="~/.cache/visalign/features.sqlite", show_default=True,
                 help="File of cached features."),
    device_option)
"""Options of `evaluate` and `compare`."""


def request_of(device: str, samples_per_prompt: int, **given):
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.evaluate import EvaluationRequest

    return EvaluationRequest(device=str(pick_device(device)), seeds=samples_per_prompt, **given)


def report(results, out: Path) -> None:
    """Print the verdict, its reasons, how much is refused, and where the rest is."""
    from visalign.evaluation.oracle import oracle_lines
    from visalign.evaluation.results import range_shifts_in_words, refusals_in_words

    for name, verdict in results.verdicts.items():
        click.echo(f"{name}: {verdict.word}")
        for reason in verdict.reasons if len(results.verdicts) < 5 or name == results.models[-1] else ():
            click.echo(f"  {reason}")
    if not results.verdicts:
        for metric in ("diversity/vendi", "diversity/distance", *(f"reward/{name}" for name in
                                                                  results.measured[results.base].rewards)):
            if metric in results.figures[results.base]:
                click.echo(f"{metric:28} {results.figures[results.base][metric]}")
    if results.strengths:
        click.echo(results.strengths.sentence)
        if results.strengths.command:
            click.echo(f"to write it: {results.strengths.command}")
    if refused := refusals_in_words(results):
        click.echo(refused)
    for line in [*range_shifts_in_words(results)[-4:], *(oracle_lines(results.oracle) if results.oracle else ())]:
        click.echo(line)
    for note in results.notes:
        click.echo(f"note: {note}")
    click.echo(f"report in {out / 'report.html'}, every number in {out / 'results.parquet'} and {out / 'results.json'}")
