"""The recipe that fits what was seen of data and model, what else is possible, and both in words."""

from dataclasses import dataclass

from visalign.config.recipes import recipe_summary, recipes
from visalign.errors import UserError, nearest
from visalign.jobs.advise.look import Look
from visalign.jobs.advise.models import LANGUAGE, MODELS, USUAL, Model, Recipe, known_recipe
from visalign.jobs.advise.rules import BESIDE, ELSEWHERE, PAIRS_OF_A_USER, RULES, Rule, taste_known

FEW_ROWS = 50
"""Pairs or samples below which a run learns them by heart."""


@dataclass(frozen=True)
class Advised:
    """A rule that fits, and the recipe of it that is nearest to the model."""

    rule: Rule
    recipe: Recipe
    model: Model


@dataclass(frozen=True)
class Advice:
    """best: of the model that was named, or of each of the usual ones. others: what else is possible, by method."""

    look: Look
    best: tuple[Advised, ...]
    others: tuple[Advised, ...]

    def take(self, method: str) -> Advised:
        """The choice of a method, or of a recipe by its name. Raises UserError naming what is possible."""
        every = (*self.best, *self.others)
        found = next((each for each in every if method in (each.rule.method, each.recipe.name)), None)
        if found is None:
            raise UserError(f"advise: --take {method}: does not fit {self.look.source}"
                            f"{nearest(method, dict.fromkeys(each.rule.method for each in every))}")
        return found


def advice_on(look: Look, model: Model | None) -> Advice:
    """Raises UserError where no recipe teaches such a model from such data."""
    if look.kind in ("thumbs", "text labels") and not look.good:
        raise UserError(f"data {look.source}: all {look.bad} samples are bad, and nothing says what is good; add good "
                        "ones, or pairs")
    best, others = [], {}
    for each in (model,) if model else usual_models(look):
        found = _fitting(look, each)
        first = next((choice for choice in found if choice.rule.begin), None)
        if first is not None:
            best.append(first)
            others |= {(choice.rule.method, choice.recipe.name): choice for choice in found if choice is not first}
    if not best:
        raise UserError(_nothing(look, model))
    named = {choice.recipe.name for choice in best}
    return Advice(look, tuple(best), tuple(each for each in others.values() if each.recipe.name not in named
                                           or each.rule.method not in {one.rule.method for one in best}))


def usual_models(look: Look) -> list[Model]:
    """One of each kind that such data can teach."""
    if look.of_language:
        return [Model("smollm2", LANGUAGE)]
    return [Model(source, MODELS[source]) for source in USUAL[look.modality, look.edits]]


def _fitting(look: Look, model: Model) -> list[Advised]:
    """One choice for each method, in the order of the rules."""
    found: dict[str, Advised] = {}
    if look.edits != model.kind.edits or look.kind != "prompts" and look.modality != model.kind.modality:
        return []
    for rule in RULES:
        if rule.method in found or not rule.fits(look):
            continue
        fitting = [recipe for recipe in map(known_recipe, rule.recipes) if recipe.suits(
            model.kind, rule.siblings, rule.own)]
        if fitting:
            found[rule.method] = Advised(rule, max(fitting, key=lambda recipe: recipe.nearness(model)), model)
    return list(found.values())


def _nothing(look: Look, model: Model | None) -> str:
    """Why no recipe fits."""
    what = f"advise: {look.source} holds {counted(look)}"
    if model is None:
        return f"{what}, which no shipped recipe learns from; what does: visalign advise --all"
    wanted = f"a model of {look.modality}s" if look.modality != "text" else "a language model"
    if look.edits != model.kind.edits and look.modality == model.kind.modality:
        wanted = "a model of edits, such as black-forest-labs/FLUX.1-Kontext-dev" if look.edits else \
            "data with source images (a column source), or a model of images"
    return f"{what}, and {model.source} is {model.kind.words}, which learns nothing from them; name {wanted}"


_UNITS = {"pairs": "pairs of {modality}s", "images": "{modality}s with captions, all to be imitated",
          "photographs": "photographs without captions",
          "thumbs": "single {modality}s with a thumb", "ratings": "rated {modality}s", "votes": "votes by seed",
          "items": "{modality}s that are good or bad in dimensions", "text pairs": "pairs of text",
          "text answers": "answers to imitate", "text labels": "answers with a label", "dialogues": "dialogues",
          "corrected": "corrected answers", "persuasion": "questions with a right and a wrong answer",
          "prompts": "prompts"}


def counted(look: Look) -> str:
    """How many there are of what, such as `120 pairs of images of 40 prompts`."""
    of = f" of {look.prompts} prompt{'s' * (look.prompts != 1)}" if look.prompts and look.kind != "prompts" else ""
    edits = " with source images" if look.edits else " about images" if look.images else ""
    least = "" if look.whole else "at least "
    return f"{least}{look.rows} {_UNITS[look.kind].format(modality=look.modality)}{edits}{of}"


def notes_on(look: Look) -> list[str]:
    """What there is to know of the data beside the recipe, a sentence each."""
    found = {
        f"only the first {look.rows} were looked at": not look.whole,
        f"a table or folder of only {look.rows} is learnt by heart soon: under about {FEW_ROWS} see that a run stops "
        "early, or gather more":
            look.rows < FEW_ROWS and look.kind not in ("prompts", "persuasion", "photographs"),
        f"{look.ties} rows are ties, which are left out": look.ties,
        f"{look.duplicates} pairs repeat an earlier one; visalign data check {look.source} says more": look.duplicates,
        f"{look.contradictory} pairs prefer the opposite of an earlier one; which: visalign data check {look.source}":
            look.contradictory,
        f"{look.broken} rows cannot be used ({look.first_broken}); all of them: visalign data check {look.source}; "
        "data.on_error=skip leaves them out": look.broken,
        f"thumbs: {look.good} up, {look.bad} down": look.good and look.bad,
        f"all {look.good} thumbs are up, so nothing says what is bad": look.good and not look.bad,
        "all have one prompt, so none is held out; eval.prompts has some to look at": one_prompt(look),
        f"labelled in {', '.join(look.dimensions)}; data.dimensions weighs them":
            len(look.dimensions) > 1 and look.pairs and look.modality != "text",
        "column strength: objective.margin and objective.soft_labels make clear preferences count more": look.strengths,
        "column chance: labels are as sure as it says": look.chances,
        "both samples have rewards: objective.margin_of trades them against the preference": look.rewards,
        _users(look): look.users,
        "for a language model name it: --model smollm2; for videos a model of videos: --model tiny-wan":
            look.kind == "prompts"}
    return [sentence for sentence, holds in found.items() if holds]


def one_prompt(look: Look) -> bool:
    """Whether there is no second prompt that could be held out."""
    return look.prompts == 1 and look.kind in ("pairs", "images", "thumbs", "ratings")


def _users(look: Look) -> str:
    if not look.users:
        return ""
    known = f"column user: {len(look.users)} users, the first with {look.users[0]} pairs"
    if taste_known(look):
        return f"{known}; {sum(count >= PAIRS_OF_A_USER for count in look.users)} have {PAIRS_OF_A_USER} or more"
    two = (*look.users, 0)[:2]
    missing = sum(max(0, PAIRS_OF_A_USER - count) for count in two)
    return (f"{known}; to learn each one's taste, two users at least need {PAIRS_OF_A_USER} pairs each: {missing} are "
            "missing")


def advice_text(advice: Advice, model: Model | None, shown: Advised) -> str:
    """A few sentences; shown: what is written."""
    look = advice.look
    lines = [f"{look.source}: {counted(look)}", *(f"note: {note}" for note in notes_on(look)), ""]
    for choice in advice.best:
        whose = f"for {choice.model.source}, " * (model is not None)
        lines += [f"take {choice.recipe.name}, {whose}{choice.model.kind.words}: "
                  f"{recipe_summary(recipes()[choice.recipe.name])}"]
    lines += [f"why: {why}" for why in dict.fromkeys(choice.rule.why for choice in advice.best)]
    if model is None and shown.recipe.kind is not None:
        lines += [f"no model is named, so the recipe keeps {shown.recipe.model}; --model takes yours"]
    if advice.others:
        lines += ["", "also possible (--take METHOD):"]
        width = max(len(each.rule.method) for each in advice.others)
        names = max(len(each.recipe.name) for each in advice.others)
        lines += [f"  {each.rule.method:{width}}  {each.recipe.name:{names}}  {each.rule.why}"
                  for each in advice.others]
    if shown not in advice.best:
        lines += ["", f"taken: {shown.recipe.name}"]
    return "\n".join(lines)


def every_recipe() -> str:
    """All shipped recipes and files beside them, each with the data that lead to it, or why none do."""
    data: dict[str, list[str]] = {}
    for rule in RULES:
        for name in rule.recipes:
            data.setdefault(name, []).append(f"{rule.method}: {rule.data}")
    width = max(map(len, (*data, *ELSEWHERE)))
    lines = [f"{name:{width}}  {'; '.join(data.get(name, ())) or f'for no data: {ELSEWHERE[name]}'}"
             for name in recipes()]
    return "\n".join([*lines, "", *(f"{folder + '/':{width}}  {why}" for folder, why in BESIDE.items())])
