"""The page of a run: before and after on the same seeds, curves, what it gained and what it cost."""

from pathlib import Path

from PIL import Image

from visalign.config import Config
from visalign.pages import picture_uri, render, svg
from visalign.runs import RunFolder, write_atomically

PROMPTS_SHOWN = 16
CURVES = (("loss", "loss"), ("implicit_accuracy", "implicit accuracy"),
          ("chosen_error_minus_ref", "error on chosen minus reference"), ("grad_norm", "gradient norm"))


def write_report(run: RunFolder, config: Config, result, versions: dict[str, str], counts: dict[str, int]) -> Path:
    """Write a self-contained report.html into the run's folder and return its path."""
    rows = run.metrics()
    held = [row for row in rows if row["kind"] == "held_out"]
    trained = [row for row in rows if row["kind"] == "train"]
    page = render(
        "run.html.j2", title=f"{config.model.source} · {config.objective['name']}", result=result, counts=counts,
        before=held[0], after=held[-1], pictures=before_and_after(run, held), curves=curves(trained, held),
        versions=versions, settings=(run.path / "config.yaml").read_text(), steps=len(trained),
        step_seconds=sum(r["seconds"] for r in trained) / max(1, len(trained)),
        displaced=tail_mean(trained, "displaced"))
    write_atomically(run.path / "report.html", page)
    return run.path / "report.html"


def tail_mean(rows: list[dict], name: str, last: int = 50) -> float | None:
    values = [row[name] for row in rows[-last:] if name in row]
    return sum(values) / len(values) if values else None


def before_and_after(run: RunFolder, held: list[dict]) -> list[dict]:
    """Per prompt: its text, embedded pictures before and after, and its reward before and after."""
    folders = [run.path / "samples" / f"step-{row['step']:08d}" for row in (held[0], held[-1])]
    shown = []
    for i, prompt in enumerate(held[0]["prompts"][:PROMPTS_SHOWN]):
        before, after = ([_embedded(path) for path in sorted(folder.glob(f"{i:03d}-*.png"))[:4]] for folder in folders)
        rewards = [row["reward"][i] if row["reward"] else None for row in (held[0], held[-1])]
        shown.append({"prompt": prompt, "before": before, "after": after, "rewards": rewards})
    return shown


def _embedded(path: Path) -> str:
    with Image.open(path) as image:
        return picture_uri(image)


def curves(trained: list[dict], held: list[dict]) -> str:
    """Training and held-out curves as one embedded SVG."""
    from matplotlib.figure import Figure

    panels = [(name, title) for name, title in CURVES if trained and name in trained[0]]
    measured = [(name, title) for name, title in (("reward", "held-out reward"), ("variety", "within-prompt variety"))
                if held[0][name]]
    total = len(panels) + len(measured)
    columns = 3
    figure = Figure(figsize=(11, 2.9 * -(-total // columns)), layout="constrained")
    axes = figure.subplots(-(-total // columns), columns, squeeze=False).flatten()
    steps = [row["step"] for row in trained]
    for axis, (name, title) in zip(axes, panels, strict=False):
        values = [row[name] for row in trained]
        axis.plot(steps, values, color="#b9c7dd", linewidth=0.7)
        axis.plot(steps, smooth(values), color="#2457a6")
        axis.set_title(title, fontsize=10)
    for axis, (name, title) in zip(axes[len(panels):], measured, strict=False):
        axis.plot([row["step"] for row in held], [sum(row[name]) / len(row[name]) for row in held], "o-",
                  color="#b4521e")
        axis.set_title(title, fontsize=10)
    for axis in axes[:total]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("optimiser step", fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in axes[total:]:
        axis.set_visible(False)
    return svg(figure)


def smooth(values: list[float], weight: float = 0.05) -> list[float]:
    """Moving average that starts at the mean of the first values."""
    average, smoothed = sum(values[:10]) / max(1, len(values[:10])), []
    for value in values:
        average += weight * (value - average)
        smoothed.append(average)
    return smoothed
