"""`visalign score`, `evaluate`, `compare`: measuring samples; and `visalign reward`: training and measuring rewards."""

from pathlib import Path

import click

from visalign.cli.measuring import measuring_options, report, request_of
from visalign.cli.options import (
    Names,
    device_option,
    out_option,
    ranged,
    read_recipe,
    recipe_arguments,
    resume_options,
    resumes,
)
from visalign.cli.ray_options import ray_options, ray_settings
from visalign.cli.reading import how_to_read, reading_options
from visalign.cli.reward_attack import attack
from visalign.cli.reward_card import card_verb
from visalign.cli.reward_distance import distance
from visalign.cli.reward_many import eval_many
from visalign.cli.reward_people import fit_user
from visalign.cli.reward_probe import probe_verb
from visalign.cli.reward_weights import fit_weights
from visalign.cli.serving import serve
from visalign.cli.verbs import Verb, Verbs
from visalign.errors import UserError
from visalign.validation.ranges import (
    Extrapolation,
    Few,
    Portion,
    Positive,
    Rate,
    Seed,
    Steps,
    Within,
)


@click.command(cls=Verb)
@click.argument("source")
@click.option("--rewards", "-r", default="tiny-reward,tiny-clip", show_default=True, type=Names(),
              help="Names, KIND:SOURCE, folders or YAML files, separated by commas (`visalign list rewards`).")
@click.option("--out", "-o", help="The table: .parquet, .csv or .jsonl (default: scores.parquet). With --engine ray a "
                                  "folder or URL (default: scores).")
@reading_options
@click.option("--max-failures", default=0.05, show_default=True, type=ranged(Portion),
              help="Stop when a reward cannot score more than this share.")
@click.option("--workers", type=ranged(Few), help="Threads that decode files (default: half the cores).")
@device_option
@click.option("--no-gallery", is_flag=True, help="Write the table only.")
@ray_options
def score(source: str, rewards: tuple[str, ...], out: str | None, max_failures: float, workers: int | None, device: str,
          no_gallery: bool, prompts_from: str, prompts_from_names: bool, media_root: str | None, **cluster) -> None:
    """Score every image and video of SOURCE (a folder, a run, or a manifest) into a table and a gallery.

    A run that was stopped continues when the same command is given again. With --engine ray, SOURCE may also be .tar
    and .parquet shards with images inside, or any URL.

    \b
    visalign score my_images -r pickscore,aesthetic,sharpness -o scores.csv
    visalign score s3://bucket/shards -r pickscore --engine ray --ray-address 10.0.0.1:6379 -o s3://bucket/scores
    """
    ray = ray_settings(**cluster)
    read = how_to_read(prompts_from, prompts_from_names, media_root)
    if ray:
        from visalign.jobs.score_on_ray import score_on_ray

        scored = score_on_ray(source, list(rewards), out or "scores", ray, device=device, max_failures=max_failures,
                              workers=workers, **read)
        click.echo("\n".join([*scored.lines, *(f"note: {note}" for note in scored.notes)]))
        click.echo(f"{scored.rows} rows in {scored.folder} (of {scored.kinds}), {scored.broken} files unreadable")
        return
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.score import score_generations

    done = score_generations(source, list(rewards), Path(out or "scores.parquet"),
                             device=str(pick_device(device)), max_failures=max_failures,
                             workers=workers, gallery=not no_gallery, **read)
    click.echo("\n".join([*done.lines, *(f"note: {note}" for note in done.notes)]))
    click.echo(f"{done.rows} rows in {done.table} (of {done.kinds}), {done.broken} files unreadable"
               + (f", gallery in {done.gallery}" if done.gallery else ""))


@click.command(cls=Verb)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--checkpoints", default="last", show_default=True, type=click.Choice(["last", "all"]),
              help="For a run: its end, or every checkpoint it kept, with curves against the KL.")
@click.option("--gold", metavar="REWARD", help="With --checkpoints all: one that was not optimised, at whose peak the "
                                               "others' values are proposed as advantage.thresholds.")
@click.option("--strengths", metavar="START:STOP:COUNT",
              help="For a finished run: this many strengths of what it learnt, such as 0:1.5:7, what each gains and "
                   "costs, and the one to take.")
@click.option("--budget", type=ranged(Within),
              help="With --strengths: the share of diversity that may be lost (default: the run's guard.budget).")
@out_option(None, "Default: evaluations/ and the source's name.")
@measuring_options
def evaluate(sources: tuple[str, ...], checkpoints: str, strengths: str | None, budget: float | None, out: Path | None,
             **given) -> None:
    """What did alignment cost? SOURCE is a run, a checkpoint, a folder of generations, a manifest, a pipeline or a
    language model.

    A run and a checkpoint are compared with the untrained model, a source that ends with +negative:ADAPTER with itself
    without it. Several finished runs of one recipe, with other values of train.seed, are one answer, whose intervals
    hold for another run. A command that was stopped continues when given again.

    \b
    visalign evaluate runs/seed-0 runs/seed-1 runs/seed-2
    visalign evaluate runs/sdxl-dpo --samples-per-prompt 8 -r pickscore,aesthetic
    visalign evaluate runs/sdxl-dpo --strengths 0:1.5:7 --budget 0.1
    visalign evaluate runs/sdxl-dpo --plan 0.1
    visalign evaluate runs/sdxl-dpo -r pickscore --oracle labels.csv
    """
    from visalign.jobs.evaluate import default_folder, evaluate_runs, evaluate_source

    source = sources[0]
    if len(sources) > 1:
        for option, value in (("--checkpoints all", checkpoints == "all"), ("--strengths", strengths)):
            if value:
                raise UserError(f"evaluate: {option} goes through one run; name one")
        out = out or default_folder(source).with_name(f"{default_folder(source).name}-seeds")
        report(evaluate_runs([Path(each).expanduser() for each in sources], request_of(**given), out), out)
        return
    if strengths and checkpoints == "all":
        raise UserError("evaluate: --strengths and --checkpoints all are two ways through a run; give one of them")
    if strengths and given["gold"] is not None:
        raise UserError("evaluate: --gold looks for a peak over checkpoints, and --strengths has none; leave one out")
    if strengths and given["effect"] is not None:
        raise UserError("evaluate: --plan plans for one strength, and --strengths tries several; leave one out")
    if strengths and given["oracle"] is not None:
        raise UserError("evaluate: --oracle is for models as they are, and --strengths tries several; leave one out")
    if budget is not None and not strengths:
        raise UserError("evaluate: --budget is what a strength is chosen under; give --strengths as well")
    if out is None:
        out = default_folder(source)
        out = out.with_name(f"{out.name}-checkpoints") if checkpoints == "all" else out
        out = out.with_name(f"{out.name}-strengths") if strengths else out
    if strengths:
        from visalign.jobs.strengths import evaluate_strengths

        report(evaluate_strengths(source, strengths, request_of(**given), out, budget), out)
        return
    report(evaluate_source(source, request_of(**given), out, checkpoints), out)


@click.command(cls=Verb)
@click.argument("models", nargs=-1, required=True)
@out_option("comparison")
@measuring_options
def compare(models: tuple[str, ...], out: Path, **given) -> None:
    """Compare MODELS, given as NAME=SOURCE, on the same prompts and seeds; the first is the base.

    SOURCE is as for `evaluate`, or MODEL+LORA; a pipeline, MODEL+LORA or a run may end with +negative:ADAPTER or
    +negative:M:ADAPTER, as `generate --negative-adapter ADAPTER --negative-scale M`.

    \b
    visalign compare base=tiny-sd3 dpo=runs/ai-feedback grpo=runs/flow-grpo
    visalign compare plain=tiny-sdxl away=tiny-sdxl+negative:runs/tiny-npo --guidance-scale 2 --prompts emoji:held_out
    """
    from visalign.jobs.evaluate import compare_sources, read_names

    report(compare_sources(read_names(models, "compare"), request_of(**given), out), out)


@click.group(cls=Verbs)
def reward() -> None:
    """Train the unified reward, measure and compare any rewards, remove their biases, serve them."""


for command in (serve, distance, card_verb, probe_verb, attack, fit_user, fit_weights):
    reward.add_command(command)


@reward.command("train")
@recipe_arguments
@resume_options
def reward_train(config: str, overrides: tuple[str, ...], resume: bool, auto_resume: bool) -> None:
    """Train the unified reward as CONFIG says, or one of text; KEY=VALUE pairs override it.

    \b
    visalign reward train reward_model/open_clip data.path=annotations.parquet
    visalign reward train language/reward data.path=pairs.jsonl
    """
    from visalign.config import RewardConfig
    from visalign.config.recipes import find_recipe
    from visalign.jobs.reward_train import train_reward
    from visalign.storage.yaml_files import read_mapping

    if read_mapping(find_recipe(config), "config").get("loop") == "language":
        _text_reward(config, overrides, resume, auto_resume)
        return
    settings = read_recipe(config, overrides, RewardConfig)
    folder = train_reward(settings, resumes(settings, resume, auto_resume))
    click.echo(f"the reward is in {folder / 'reward'}, its report in {folder / 'eval' / 'report.html'}")


def _text_reward(config: str, overrides: tuple[str, ...], resume: bool, auto_resume: bool) -> None:
    from visalign.config.language_reward import LanguageRewardConfig
    from visalign.language.reward_model import train_text_reward

    settings = read_recipe(config, overrides, LanguageRewardConfig)
    found = train_text_reward(settings, resumes(settings, resume, auto_resume))
    if found.accuracy is not None:
        click.echo(f"accuracy on {found.held_out} held-out pairs {found.accuracy.value:.3f} [{found.accuracy.low:.3f}, "
                   f"{found.accuracy.high:.3f}]")
    click.echo(f"the reward is sequence:{found.folder / 'reward'}")


@reward.command("eval")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("data_path", metavar="DATA")
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Labelled columns to look for.")
@out_option("reward-eval")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--no-edits", is_flag=True, help="Leave out the robustness test, which triples the work.")
@click.option("--many", is_flag=True,
              help="DATA has single samples with ratings: is the best one of each prompt the highest?")
@click.option("--augment", metavar="RECIPE", help="Tell of pairs made of DATA as well, as data.augment of this recipe.")
@device_option
def reward_eval(reward_spec: str, data_path: str, dimensions: tuple[str, ...], out: Path, media_root: str | None,
                no_edits: bool, many: bool, augment: str | None, device: str) -> None:
    """How far REWARD agrees with the annotations in DATA, with intervals, and its worst mistakes.

    A reward of texts reads prompt, chosen and rejected in DATA as texts. With --many DATA has a row for each sample:
    prompt, image (video, answer) and its ratings, numbers or good and bad.
    """
    if many and no_edits:
        raise UserError("reward eval: --many has no robustness test that --no-edits could leave out; leave it out")
    if many and augment:
        raise UserError("reward eval: --augment makes pairs of comparisons, and --many has single samples; leave one "
                        "of them out")
    if many:
        eval_many(reward_spec, data_path, dimensions, out, media_root, device)
        return
    from visalign.data.annotations import read_annotations
    from visalign.data.text_annotations import read_text_annotations
    from visalign.evaluation.reward_eval import summary_lines
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.augmentation import pairs_as_in
    from visalign.jobs.reward_eval import evaluate_reward
    from visalign.rewards import load_reward

    loaded = load_reward(reward_spec, str(pick_device(device)))
    items = (read_text_annotations(data_path, dimensions) if loaded.modalities == {"text"} else
             read_annotations(data_path, dimensions, media_root))
    made = pairs_as_in(augment, items) if augment else []
    reports = evaluate_reward(loaded, items, out, str(pick_device(device)), edits=not no_edits, augmented=made)
    click.echo("\n".join([*summary_lines(reports), f"report in {out / 'report.html'}"]))


@reward.command("annotate")
@click.argument("reward_spec", metavar="RUN")
@click.argument("data_path", metavar="DATA")
@out_option("annotated.parquet")
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Labelled columns to look for.")
@click.option("--most", default=3.0, show_default=True, type=ranged(Positive),
              help="Strengths are kept below this many log-odds.")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@device_option
def reward_annotate(reward_spec: str, data_path: str, out: Path, dimensions: tuple[str, ...], most: float,
                    media_root: str | None, device: str) -> None:
    """Write DATA with columns from the reward of RUN for each comparison: strength, flip_chance, margin, source.

    Training reads the table as it reads DATA. RUN should not have been trained on DATA: a reward overestimates the
    clarity of labels it has seen.
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.annotate import annotate

    done = annotate(reward_spec, data_path, dimensions, out, media_root=media_root, most=most,
                    device=str(pick_device(device)))
    click.echo(f"{done.rows} rows in {done.table}: {done.scored} scored, mean strength {done.mean_strength:.3f}; the "
               f"reward disagrees with {done.disagreeing} labels")


@reward.command("debias")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("source")
@out_option("bias.json")
@device_option
def reward_debias(reward_spec: str, source: str, out: Path, device: str) -> None:
    """Fit the bias of REWARD for brightness, sharpness and the like on SOURCE, samples of the base model."""
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.debias import debias

    model = debias(reward_spec, source, out, str(pick_device(device)))
    click.echo(f"{'feature':18} {'before':>7} {'after':>7}   correlation with the reward, on {model.samples} samples")
    for name in model.before:
        click.echo(f"{name:18} {model.before[name]:+7.3f} {model.after[name]:+7.3f}")
    click.echo(f"use it as {{kind: debiased, of: [{reward_spec}], model: {out}}}")


@reward.command("direct")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("source")
@out_option("direction.safetensors")
@click.option("--mean", type=ranged(Positive), help="Learn nothing: this many times the mean feature of SOURCE.")
@click.option("--omega", default=1.5, show_default=True, type=ranged(Extrapolation),
              help="How far texts are moved while the direction is learnt.")
@click.option("--steps", default=2000, show_default=True, type=ranged(Steps))
@click.option("--rate", default=0.01, show_default=True, type=ranged(Rate), help="Of Adam.")
@click.option("--longest", type=ranged(Positive),
              help="Hold the direction within this length, that of a prompt being 1 (default: as long as it grows).")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@device_option
def reward_direct(reward_spec: str, source: str, out: Path, mean: float | None, omega: float, steps: int, rate: float,
                  longest: float | None, seed: int, device: str) -> None:
    """Learn the direction that frees REWARD, a CLIP model, of its own taste, on SOURCE, samples of the base model.

    \b
    visalign reward direct tiny-clip base-samples -o direction.safetensors
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_direction import direct_reward

    found = direct_reward(reward_spec, source, out, mean=mean, omega=omega, steps=steps, rate=rate,
                          longest=longest, seed=seed, device=str(pick_device(device)))
    left = f", {found.left_out} others left out" if found.left_out else ""
    click.echo(f"{found.samples} samples{left}; the direction has length {found.length:.3f} and cosine "
               f"{found.towards:+.3f} with their mean feature")
    for when, (value, told) in (("before", found.before), ("after", found.after)):
        click.echo(f"{when:6} on held-out prompts: reward {value:+.3f}, {told:+.3f} more than with another prompt")
    if found.after[1] < found.before[1] / 2:
        click.echo("note: more than half of what the prompts say is lost; --longest or fewer --steps leave more of it")
    click.echo(f"use it as {{kind: directional, of: {reward_spec}, correction: {out}"
               + ("" if mean else f", omega: {omega:g}") + "}")


@reward.command("transport")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("source")
@out_option("map.safetensors")
@click.option("--epsilon", default=0.05, show_default=True, type=ranged(Positive),
              help="Blur of the plan, in units of the mean cost.")
@click.option("--ridge", default=0.1, show_default=True, type=ranged(Positive),
              help="How much the map is held back, in units of the captions' variance.")
@click.option("--most", default=4096, show_default=True, type=ranged(Few), help="Samples that the plan is made of.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@device_option
def reward_transport(reward_spec: str, source: str, out: Path, epsilon: float, ridge: float, most: int, seed: int,
                     device: str) -> None:
    """Map captions to where real videos are for REWARD, a CLIP model, on SOURCE, real videos with captions.

    \b
    visalign reward transport clip:ViT-L-14/openai my_videos -o map.safetensors
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_transport import transport_reward

    found = transport_reward(reward_spec, source, out, epsilon=epsilon, ridge=ridge, most=most, seed=seed,
                             device=str(pick_device(device)))
    left = f", {found.left_out} others left out" if found.left_out else ""
    click.echo(f"{found.used} of {found.samples} samples made the map{left}")
    click.echo("on the held-out ones, a caption's own sample fits better than another one in\n"
               f"  {found.plain} by the plain cosine\n  {found.mapped} by the mapped one")
    click.echo(f"use it as {{kind: transport_quality, of: {reward_spec}, map: {out}}}")
