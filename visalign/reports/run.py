"""The page of a run: before and after on the same seeds, curves, gains and costs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from visalign.config import LanguageSettings, OfflineConfig, OnlineConfig
from visalign.evaluators.likelihood import gap_quantiles
from visalign.evaluators.looks import ERROR, OneOfMany
from visalign.evaluators.prompt_metrics import fewest_prompts, known_mean, prompt_metrics_of
from visalign.evaluators.verdict import KINDS_OF_EVIDENCE
from visalign.media.video_files import read_media
from visalign.reports import charts, media_uri, render_page, source_uris, svg
from visalign.reports.before_after import BEFORE_AFTER, BeforeAfter, first_and_last, save_before_after
from visalign.reports.uncertainty import uncertainty_shown
from visalign.rewards.registry import CARD, reward_folder
from visalign.storage.run_folder import RunFolder, write_atomically

CURVES = (("loss", "loss"), ("implicit_accuracy", "implicit accuracy"),
          ("chosen_error_minus_ref", "error on chosen minus reference"),
          ("log_prob_chosen", "log-likelihood of chosen answers"), ("reward", "reward of the policy's samples"),
          ("group_std", "spread of rewards within a prompt"), ("group_diversity", "diversity within its groups"),
          ("zero_std_ratio", "share of groups with equal rewards"),
          ("ended", "share of answers that ended by themselves"), ("answer_tokens", "tokens of an answer"),
          ("entropy", "entropy of a token"), ("approx_kl", "KL to the old policy (estimate)"),
          ("kl", "KL to the reference"), ("old_deviate", "distance from the old policy"),
          ("grad_norm", "gradient norm"))
UNITS = {"offline": "optimiser step", "online": "epoch", "language": "optimiser step"}


def write_report(run: RunFolder, config: OfflineConfig | OnlineConfig | LanguageSettings, result,
                 versions: dict[str, str], counts: dict[str, int]) -> Path:
    """Write a self-contained report.html, and of images before_after.png, into the run's folder; returns the page's
    path."""
    rows = run.metrics()
    held = [row for row in rows if row["kind"] == "held_out"]
    trained = [row for row in rows if row["kind"] == "train"]
    shown, texts = first_and_last(run.path, held), config.loop == "language"
    if not texts:
        save_before_after(shown, run.path / BEFORE_AFTER)
    page = render_page(
        "run.html.j2", title=f"{config.model.source} · {config.objective['name']}", result=result, counts=counts,
        before=held[0], after=held[-1], proxy=result.verdict.proxy,
        images=before_and_after(shown, held, (reward := shown_reward(held[0], result.verdict.proxy))), reward=reward,
        curves=run_curves(trained, held, UNITS[config.loop]), unit=UNITS[config.loop], tables=step_tables(trained),
        own_samples=[embedded(path, 900) for path in newest_sheet(run.path / "rollouts")],
        kept_pairs=uncertainty_shown(run.path),
        own_answers=own_answers(run.path / "rollouts" / "answers.jsonl"),
        guard=guard_looks([row for row in rows if row["kind"] == "guard"], UNITS[config.loop]),
        versions=versions, settings=(run.path / "config.yaml").read_text(), steps=len(trained),
        step_seconds=sum(r["seconds"] for r in trained) / max(1, len(trained)),
        card=card_of(config.eval.reward), displaced=tail_mean(trained, "displaced"), known_mean=known_mean, texts=texts,
        gaps=gap_quantiles(gaps) if (gaps := held[0].get("held_out/reference_gap")) else None,
        notes={when: prompt_metrics_of(row).notes() for when, row in (("before", held[0]), ("after", held[-1]))})
    write_atomically(run.path / "report.html", page)
    return run.path / "report.html"


def card_of(spec) -> str | None:
    """Where the card of a reward is, as a link; None of one that has none."""
    folder = reward_folder(spec) if spec else None
    page = folder / CARD / "report.html" if folder else None
    return page.resolve().as_uri() if page and page.is_file() else None


def guard_looks(looks: list[dict], unit: str) -> dict | None:
    """The guard's measurements: their reward-diversity front, with what each look may err, the verdict at each, and why
    it looked closely; None for fewer than two."""
    if len(looks) < 2:
        return None
    words = [(f"{unit} {row['step']}", row["verdict"]["word"]) for row in looks]
    close = [(f"{unit} {row['step']}", row["suspicion"]) for row in looks if "suspicion" in row]
    proxy = looks[-1]["verdict"]["proxy"]
    chart = None
    if proxy and "diversity/vendi" in looks[0]["values"]:
        even = ERROR / len(looks) / KINDS_OF_EVIDENCE  # of runs from before looks shared their error
        count = fewest_prompts(looks)  # a close look has more, and prompts differ in what they are worth
        seen = {str(row["step"]): (prompt_metrics_of(row).first(count), OneOfMany(row.get("error", even)))
                for row in looks}
        rewards, diversity = ({name: found.mean(metric, intervals) for name, (found, intervals) in seen.items()}
                              for metric in (f"reward/{proxy}", "diversity/vendi"))
        if all(rewards.values()):
            chart = charts.front_chart(rewards, diversity, next(iter(seen)), proxy)
    return {"words": words, "close": close, "chart": chart}


def tail_mean(rows: list[dict], name: str, last: int = 50) -> float | None:
    values = [row[name] for row in rows[-last:] if name in row]
    return sum(values) / len(values) if values else None


def shown_reward(row: dict, proxy: str | None) -> str | None:
    """The optimised reward, or where none is named the first that was measured."""
    measured = (name.removeprefix("reward/") for name in row["values"] if name.startswith("reward/"))
    return proxy or next(measured, None)


def before_and_after(rows: list[BeforeAfter], held: list[dict], reward: str | None) -> list[dict]:
    """Per prompt: its text, embedded images (or answers) before and after, and its mean reward before and after, where
    known."""
    means = [row["values"][f"reward/{reward}"] if reward else None for row in (held[0], held[-1])]
    return [{"prompt": row.prompt, "sources": source_uris(row.sources),
             "before": [each if isinstance(each, str) else media_uri(each, 256) for each in row.before],
             "after": [each if isinstance(each, str) else media_uri(each, 256) for each in row.after],
             "rewards": [known(values[i]) if values else None for values in means]} for i, row in enumerate(rows)]


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def embedded(path: Path, side: int = 256) -> str:
    return media_uri(read_media(path, path.name), side)


def newest_sheet(folder: Path) -> list[Path]:
    """The last epoch's contact sheet, the looping one where there is one; [] before the first."""
    sheets = sorted(folder.glob("*.png"))[-1:]
    return [loop if (loop := sheet.with_suffix(".webp")).exists() else sheet for sheet in sheets]


def own_answers(file: Path) -> list[dict]:
    """Of an online run's last batch, the first groups' answers with their rewards, best first; [] of other runs."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def step_tables(trained: list[dict]) -> str | None:
    """Ratios and clipping by sampling step over the run as one embedded SVG; None where a method has no ratios."""
    from matplotlib.figure import Figure

    rows = [row for row in trained if "ratio" in row.get("by_step", {})]
    if not rows:
        return None
    figure = Figure(figsize=(11, 3.0), layout="constrained")
    axes = figure.subplots(1, 3)
    shown = [rows[i] for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    for row, colour in zip(shown, ("#b9c7dd", "#6d93c9", "#12366f"), strict=False):
        table, label = row["by_step"], f"epoch {row['step']}"
        steps = sorted(map(int, table["ratio"]))

        def column(name: str, table=table, steps=steps) -> list[float]:
            return [table[name][str(step)] for step in steps]

        middle, spread = column("ratio"), column("ratio_std")
        axes[0].plot(steps, [m - 1 for m in middle], "o-", color=colour, label=label, markersize=4)
        axes[0].fill_between(steps, [m - s - 1 for m, s in zip(middle, spread, strict=True)],
                             [m + s - 1 for m, s in zip(middle, spread, strict=True)], color=colour, alpha=0.2)
        axes[1].plot(steps, column("clipped_above"), "o-", color=colour, label=label, markersize=4)
        axes[2].plot(steps, column("clipped_below"), "o-", color=colour, label=label, markersize=4)
    axes[0].axhline(0, color="#999999", linewidth=0.7)
    for axis, title in zip(axes, ("ratio minus 1, mean and spread", "share clipped above", "share clipped below"),
                           strict=True):
        axis.set_title(title, fontsize=10, parse_math=False)
        axis.set_xlabel("sampling step (0: pure noise)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(fontsize=8, frameon=False)
    return svg(figure)


def run_curves(trained: list[dict], held: list[dict], unit: str) -> str:
    """Training and held-out curves as one embedded SVG."""
    from matplotlib.figure import Figure

    known = {name for row in trained for name in row}
    reward_sets = [(name, title) for name, title in CURVES if name in known]
    shown = [name for name in held[0]["values"] if name.startswith("reward/") or name == "diversity/distance"]
    measured = [(f"held-out {name.replace('/', ': ')}", [known_mean(row["values"][name]) for row in held])
                for name in shown]
    total = len(reward_sets) + len(measured)
    columns, lines = 3, -(-total // 3)
    height = 2.9 * lines
    figure = Figure(figsize=(11, height))  # placed by hand: a layout solver draws everything a second time
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.45 / height, top=1 - 0.3 / height, wspace=0.18, hspace=0.42)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (name, title) in zip(axes, reward_sets, strict=False):
        steps, values = zip(*[(row["step"], row[name]) for row in trained if name in row], strict=True)
        axis.plot(steps, values, color="#b9c7dd", linewidth=0.7)
        axis.plot(steps, smooth(values), color="#2457a6")
        axis.set_title(title, fontsize=10, parse_math=False)
    for axis, (title, means) in zip(axes[len(reward_sets):], measured, strict=False):
        axis.plot([row["step"] for row in held], means, "o-", color="#b4521e")
        axis.set_title(title, fontsize=10, parse_math=False)
    for axis in axes[:total]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=5)
    for axis in axes[total:]:
        axis.set_visible(False)
    return svg(figure)


def smooth(values: Sequence[float]) -> list[float]:
    """Moving average that starts at the mean of the first values; short runs are smoothed less."""
    first, weight = values[:min(10, 1 + len(values) // 10)], max(0.05, min(1.0, 5 / max(1, len(values))))
    average, smoothed = sum(first) / max(1, len(first)), []
    for value in values:
        average += weight * (value - average)
        smoothed.append(average)
    return smoothed
