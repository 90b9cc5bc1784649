"""Runs: curves, samples over time, the verdict and the report, including runs that are still training."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from visalign.config import LanguageSettings, OfflineConfig, OnlineConfig
from visalign.config.load import parse_config
from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.evaluators.prompt_metrics import known_mean, prompt_metrics_of
from visalign.evaluators.verdict import Verdict, VerdictLimits, verdict_of
from visalign.media.source_images import parts_shown
from visalign.media.video_files import read_media
from visalign.reports import shown_media, source_uris
from visalign.reports.run import UNITS, run_curves
from visalign.rewards import load_reward
from visalign.storage.run_folder import read_metrics
from visalign.storage.yaml_files import read_mapping
from visalign_demo.compare_tab import problem_html
from visalign_demo.context import Demo, render_fragment, sentence_of, whole_in

PROMPTS, EACH, LIVE_SECONDS = 8, 4, 90


@dataclass(frozen=True)
class Run:
    """A run's folder below the runs folder; `name` is its path there."""

    name: str
    path: Path

    @property
    def live(self) -> bool:
        """Whether it wrote something recently and has not ended."""
        file = self.path / "metrics.jsonl"
        return not self.ended and file.is_file() and time.time() - file.stat().st_mtime < LIVE_SECONDS

    @property
    def ended(self) -> bool:
        return (self.path / "report.html").is_file()


def find_runs(folder: Path) -> list[Run]:
    """Run folders up to two levels deep, the newest first; links that lead elsewhere are not followed."""
    root = folder.expanduser().resolve()
    if not root.is_dir():
        return []
    found = [file.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for file in root.glob(pattern)
             if (file.parent / "checkpoints").is_dir() and file.parent.resolve().is_relative_to(root)]
    order = sorted(found, key=lambda path: -(path / "config.yaml").stat().st_mtime)
    return [Run(readable(path.relative_to(root).as_posix()), path) for path in order]


def readable(name: str) -> str:
    """A path as text, undecodable bytes replaced; file names may hold any bytes."""
    return name.encode("utf-8", "replace").decode()


def run_named(folder: Path, name: str | None) -> Run:
    """One of the runs. Raises UserError for any other name."""
    run = next((run for run in find_runs(folder) if run.name == name), None)
    if run is None:
        raise UserError(f"There is no run '{name}'." if name else "There is no run yet.")
    return run


@contextlib.contextmanager
def reading(run: Run) -> Iterator[None]:
    """Turn whatever is wrong with a run's files, which may come from anywhere, into a UserError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        raise UserError(f"The run '{run.name}' cannot be shown: its files are not as this version writes them "
                        f"({type(error).__name__}).") from None


def overview_html(run: Run, root: str = "") -> str:
    """Verdict, newest numbers and curves. root: path of the page."""
    rows = read_metrics(run.path)
    trained, held = ([row for row in rows if row["kind"] == kind] for kind in ("train", "held_out"))
    config = parse_config(read_mapping(run.path / "config.yaml", "run"), str(run.path / "config.yaml"))
    unit = UNITS[config.loop]
    drawn = run_curves(trained, held, unit) if trained and held and "values" in held[0] else None
    means = [{name: known_mean(values) for name, values in row["values"].items()
              if name.startswith("reward/") or name in ("diversity/vendi", "diversity/motion")} for row in
             (held[0], held[-1])] if held and "values" in held[0] else []
    return render_fragment("run.html.j2", run=run, root=root, unit=unit, steps=trained[-1]["step"] if trained else 0,
                  means=means, curves=drawn,
                  verdict=shown_verdict(config, held) if len(means) and held[0] is not held[-1] else None,
                  model=config.model.source, method=config.objective["name"])


def shown_verdict(config: OfflineConfig | OnlineConfig | LanguageSettings, held: list[dict]) -> Verdict | None:
    """The verdict from the first to the last measurement; None where the optimised reward was not measured."""
    try:
        proxy = load_reward(config.eval.reward).name if config.eval.reward else None
    except UserError:
        return None
    guard = config.guard
    limits = VerdictLimits(guard.budget, guard.drift, guard.tolerance)
    return verdict_of(prompt_metrics_of(held[0]), prompt_metrics_of(held[-1]), proxy, limits)


def sample_steps(run: Run) -> list[str]:
    """Folders of samples, oldest first."""
    return sorted(path.name for path in (run.path / "samples").glob("step-*") if path.is_dir())


def samples_html(run: Run, place: int) -> str:
    """The samples of one step by prompt."""
    steps = sample_steps(run)
    if not steps:
        return render_fragment("samples.html.j2", step="", rows=[])
    step = steps[min(max(0, place), len(steps) - 1)]
    if (run.path / "samples" / step / "samples.jsonl").is_file():
        return render_fragment("samples.html.j2", step=step, rows=answer_rows(run.path / "samples" / step))
    held = [row for row in read_metrics(run.path) if row["kind"] == "held_out" and row.get("folder") == step]
    prompts = held[0]["prompts"] if held else []
    rows = []
    for number in range(PROMPTS):
        files = sorted((run.path / "samples" / step).glob(f"{number:03d}-*.*"))[:EACH]
        if files:
            words, sources = parts_shown(prompts[number]) if number < len(prompts) else (f"prompt {number + 1}", ())
            rows.append((words, source_uris(sources), [shown_media(read_media(file, file.name, 16), 128)
                                                       for file in files]))
    return render_fragment("samples.html.j2", step=step, rows=rows)


def answer_rows(folder: Path) -> list[tuple[str, list[str], list[dict[str, str]]]]:
    """As `samples_html` shows them, of a language model's answers."""
    found: dict[str, list[dict[str, str]]] = {}
    for entry in find_generations(folder):
        if not entry.problem:
            found.setdefault(entry.prompt, []).append(shown_media(entry.sample().media))
    return [(prompt, [], answers[:EACH]) for prompt, answers in list(found.items())[:PROMPTS]]


def build_runs_tab(demo: Demo, tab: gr.Tab) -> None:
    """The tab."""
    folder = demo.settings.runs

    def names() -> list[str]:
        return [run.name for run in find_runs(folder)] if folder.is_dir() else []

    with gr.Row():
        chosen = gr.Dropdown(names(), label=f"Runs in {folder}", elem_id="run")
        refresh = gr.Button("Refresh", elem_id="run-refresh")
    overview = gr.HTML(elem_id="run-overview")
    scrub = gr.Slider(0, 1, 0, step=1, label="Samples over time", elem_id="run-scrub", visible=False)
    samples = gr.HTML(elem_id="run-samples")
    live = gr.Timer(5, active=False)
    outputs = [overview, scrub, samples, live]

    def show(name):
        try:
            run = run_named(folder, name)
            with reading(run):
                last = len(sample_steps(run)) - 1
                scrubbed = gr.Slider(0, max(1, last), value=max(0, last), visible=last > 0)
                return (overview_html(run, demo.settings.root), scrubbed, samples_html(run, last),
                        gr.Timer(active=run.live))
        except Exception as error:
            return problem_html(sentence_of(error)), gr.skip(), gr.skip(), gr.Timer(active=False)

    def list_and_show(name):
        known = names()
        name = name if name in known else known[0] if known else None
        return (gr.Dropdown(known, value=name), *show(name))

    def at(name, place):
        try:
            run = run_named(folder, name)
            with reading(run):
                return samples_html(run, whole_in(place, "The place", 0, 10**6))
        except Exception as error:
            return problem_html(sentence_of(error))

    quiet = {"show_progress": "hidden", "queue": False}
    tab.select(list_and_show, chosen, [chosen, *outputs], api_visibility="private", **quiet)
    refresh.click(list_and_show, chosen, [chosen, *outputs], api_visibility="private", **quiet)
    chosen.input(show, chosen, outputs, api_name="run", **quiet)
    live.tick(show, chosen, outputs, api_visibility="private", **quiet)
    scrub.release(at, [chosen, scrub], samples, api_visibility="private", **quiet)
    scrub.input(at, [chosen, scrub], samples, api_visibility="private", trigger_mode="always_last", **quiet)
