"""`visalign reward eval --many`: the right one of many."""

from pathlib import Path

import click


def eval_many(spec: str, source: str, dimensions: tuple[str, ...], out: Path, media_root: str | None,
              device: str) -> None:
    """Measure and print the table."""
    from visalign.evaluation.one_to_many import many_lines
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_many import evaluate_many
    from visalign.rewards import load_reward

    reports = evaluate_many(load_reward(spec, str(pick_device(device))), source, dimensions, out, media_root)
    click.echo("\n".join([*many_lines(reports),
                          f"report in {out / 'report.html'}, every number in {out / 'many.json'}"]))
