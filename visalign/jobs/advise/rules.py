"""Which recipe fits which data: a table of rules, read from above. A new method is a new row.

The first rule of all that fits and is one to begin with names the recommended recipe, of those that it lists the one
nearest to the model. The other rules that fit are what else is possible.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from visalign.jobs.advise.look import PHOTOGRAPHS, Look

Fits = Callable[[Look], bool]


@dataclass(frozen=True)
class Rule:
    """method: what `--take` calls it; a name may stand in several rules, of which the first that fits counts. fits:
    whether it is for such data, which `data` says in words. recipes: names of shipped ones. why: when one takes it.

    begin: whether it is one to begin with. siblings: recipes for the other process do, with the objective's sibling.
    own: whether its recipes are for models of their own family and size alone. prompted: its recipes take prompts in
    place of pairs. settings: what such data need set beyond where they are, by
    dotted key, None to take out; first: what to do before the run.
    """

    method: str
    data: str
    fits: Fits
    recipes: tuple[str, ...]
    why: str
    begin: bool = False
    siblings: bool = False
    own: bool = False
    prompted: bool = False
    settings: Callable[[Look], dict[str, Any]] = field(default=lambda look: {})
    first: str = ""


FEW_PHOTOGRAPHS = range(3, 21)
OF_A_SUBJECT = "a few photographs show one subject, and they are set against the model's own images of it elsewhere"
NAME_THE_SUBJECT = "write the subject's word, its class and your prompts into data.subject and eval.prompts"
PAIRS_OF_A_USER = 5
"""So many at least tell a user's taste."""
FEW_PROMPTS = 100
"""Of fewer a twentieth may be none at all."""


def _pairs(look: Look) -> bool:
    return look.kind == "pairs"


def _compared(look: Look) -> bool:
    return bool(look.pairs) and look.kind in ("pairs", "ratings")


def _images(look: Look) -> bool:
    """Good samples alone."""
    return look.kind == "images" or look.kind == "thumbs" and not look.bad


def _thumbs(look: Look) -> bool:
    return look.kind == "thumbs" and bool(look.good and look.bad)


def _ratings(look: Look) -> bool:
    return look.kind == "ratings"


def _prompts(look: Look) -> bool:
    return look.kind == "prompts"


def _kind(name: str) -> Fits:
    return lambda look: look.kind == name


def _text(*kinds: str) -> Fits:
    return lambda look: look.kind in kinds


def taste_known(look: Look) -> bool:
    """Whether several users have pairs enough to tell their tastes."""
    return sum(count >= PAIRS_OF_A_USER for count in look.users) > 1


def _good_from(look: Look) -> dict[str, Any]:
    return {} if look.good_from is None else {"data.good_from": round(look.good_from, 4),
                                              **({"data.dimensions": dict.fromkeys(look.dimensions, 1.0)}
                                                 if look.dimensions else {})}


def _kto_of_videos(look: Look) -> dict[str, Any]:
    return _good_from(look) | {"objective": {"name": "diffusion_kto", "beta": 1000}, "train.batch_size": 8,
                               "data.positive_ratio": 0.5}


def _unwatched(look: Look) -> dict[str, Any]:
    """Of few prompts the share that is held out may be none, and then no pair of it can be watched."""
    return {"guard.watch_pairs": 0} if look.prompts < FEW_PROMPTS else {}


def _own_prior(look: Look) -> dict[str, Any]:
    return {"data.sources": [{"path": look.source}, {"path": "class_images", "prior": True, "caption": "a photo"}]}


def _mixed(look: Look) -> dict[str, Any]:
    return {"data.sources": [{"path": look.source}]}


FLOW_IMAGES = ("sd3_flow_dpo", "flux2_klein_flow_dpo", "qwen_image_flow_dpo", "sana_flow_dpo", "z_image_flow_dpo",
               "low_memory/flux_flow_dpo_24gb", "ai_feedback")
VIDEOS = ("video/wan21_flow_dpo", "video/wan22_flow_dpo", "video/ltx_flow_dpo", "video/ltx2_flow_dpo",
          "video/hunyuan15_flow_dpo", "video/cogvideox_diffusion_dpo", "video/flow_dpo_dimensions")
EDITS = ("edit/kontext_flow_dpo", "edit/qwen_edit_flow_dpo", "edit/tiny_edit_dpo")

RULES: tuple[Rule, ...] = (
    # Images and videos: pairs
    Rule("ppd", "pairs of images with a column user, 5 or more of each of several users", lambda look: _pairs(look)
         and look.modality == "image" and taste_known(look), ("sdxl_ppd", "tiny_ppd"),
         "the pairs say who chose, and the model learns to be told of a user by a few of their pairs",
         begin=True, siblings=True, settings=lambda look: {"data.users.holdout": 0.0}),
    Rule("strength", "pairs with the columns flip_chance and margin of `visalign reward annotate`",
         lambda look: _pairs(look) and look.annotated, ("tiny_strength",),
         "a reward has said of each label how clear it is: wrong ones are turned, doubtful ones are smoothed",
         begin=True, siblings=True),
    Rule("capo", "pairs whose rewards are win rates, of `visalign data pairs --strategy pareto`",
         lambda look: _pairs(look) and look.win_rates, ("sdxl_capo", "sd3_capo"),
         "both samples say how often they win by several rewards, and that gap is what is learnt", begin=True),
    Rule("dpo", "pairs of edits", lambda look: _compared(look) and look.edits, EDITS,
         "the pairs say which of two edits is preferred, and direct preference optimisation learns just that",
         begin=True),
    Rule("dpo", "pairs of videos", lambda look: _compared(look) and look.modality == "video", VIDEOS,
         "the data say which of two videos is preferred, and direct preference optimisation learns just that",
         begin=True),
    Rule("buckets", "pairs of images that are not square", lambda look: _compared(look) and look.shapes,
         ("sdxl_dpo_buckets", "tiny_buckets"),
         "images keep their shapes instead of being cropped to squares"),
    Rule("dpo", "pairs of images", _compared, ("sdxl_dpo", "sd15_dpo", "quickstart", *FLOW_IMAGES),
         "the data say which of two images is preferred, and direct preference optimisation learns just that: it "
         "raises the chosen and lowers the rejected, held by the reference", begin=True),
    Rule("inpo", "pairs", _pairs, ("sdxl_inpo", "tiny_inpo"),
         "pairs are compared at the model's own latents: a tenth of the steps, each several times as long",
         siblings=True),
    Rule("mapo", "pairs", _pairs, ("sdxl_mapo", "tiny_mapo"), "no reference has to be held or asked; nothing else "
         "holds the model where it was", settings=_unwatched),
    Rule("rwr", "pairs with rewards of both samples", lambda look: _pairs(look) and look.rewards,
         ("sd3_flow_rwr", "video/wan21_flow_rwr", "video/flow_rwr"),
         "learns from how good each sample is, not only from which is better"),
    Rule("goals", "pairs with rewards of both samples", lambda look: _pairs(look) and look.rewards,
         ("tiny_goals",), "the model learns to be asked for a score"),
    Rule("npo", "pairs", _pairs, ("sd15_npo", "tiny_npo"),
         "makes a negative adapter, which guidance leads away from; the model itself stays", siblings=True),
    Rule("mixed", "pairs", lambda look: _pairs(look) and not look.edits, ("mixed_dpo",),
         "you have further sets, which learn together by shares; add them to data.sources", settings=_mixed,
         siblings=True),
    Rule("continue", "pairs", _pairs, ("sdxl_continue_lora",), "you have a LoRA that the run shall go on from",
         siblings=True, first="put your LoRA's file into model.lora.start"),
    Rule("low-memory", "pairs", _pairs, ("low_memory/flux_flow_dpo_12gb",),
         "a card of 12 GB is all there is", own=True),
    Rule("full", "pairs", _pairs, ("low_memory/sdxl_full_dpo",), "all weights are learnt, not a LoRA, on one card of "
         "24 GB", own=True),
    # Single samples
    Rule("rpo", "a folder of 3 to 10 photographs of one subject", lambda look: look.kind == "photographs",
         ("sd21_rpo", "tiny_subject"), OF_A_SUBJECT, begin=True, first=NAME_THE_SUBJECT),
    Rule("kto", "single images with a thumb up or down", lambda look: _thumbs(look) and look.modality == "image",
         ("sd15_kto", "tiny_kto"), "each image is good or bad by itself (column label), and nothing is compared",
         begin=True),
    Rule("kto", "single videos with a thumb up or down", lambda look: _thumbs(look) and look.modality == "video",
         VIDEOS, "each video is good or bad by itself (column label), and nothing is compared", begin=True,
         siblings=True, settings=_kto_of_videos),
    Rule("kto", "ratings", lambda look: _ratings(look) and look.modality == "image", ("sd15_kto", "tiny_kto"),
         "images from the middle rating on count as good, and few of one prompt are there to be compared", begin=True,
         settings=_good_from),
    Rule("kto", "ratings of videos", lambda look: _ratings(look) and look.modality == "video", VIDEOS,
         "videos from the middle rating on count as good, and few of one prompt are there to be compared", begin=True,
         siblings=True, settings=_kto_of_videos),
    Rule("kto", "pairs of images", lambda look: _pairs(look) and look.modality == "image",
         ("sd15_kto", "tiny_kto"), "each sample counts by itself: the chosen one as good, the rejected one as bad"),
    Rule("sft", "captioned images or videos, or thumbs that are all up", _images,
         ("sft_folder", "video/wan21_sft_folder"),
         "only good samples are there, with nothing that they are preferred to: the model imitates them", begin=True),
    Rule("sft", "pairs", _compared, ("sft", "video/wan21_sft", "video/sft"),
         "imitates the chosen samples alone: the baseline that a preference method should beat"),
    Rule("seppo", "captioned images, or pairs", lambda look: _images(look) or _pairs(look),
         ("sd15_seppo", "tiny_seppo"), "sets each good sample against what an earlier self of the run makes of its "
         "prompt; samples as it trains"),
    Rule("soar", "captioned images, or pairs", lambda look: _images(look) or _pairs(look), ("sd3_soar", "tiny_soar"),
         "imitates the good samples, also from where the model's own steps lead; several times the computation"),
    Rule("rpo", "a folder of 3 to 10 captioned images", lambda look: _images(look) and look.folder
         and look.modality == "image" and look.rows in PHOTOGRAPHS, ("sd21_rpo", "tiny_subject"), OF_A_SUBJECT,
         first=NAME_THE_SUBJECT),
    Rule("subject", "up to 20 images of a subject or style",
         lambda look: _images(look) and look.modality == "image" and look.rows in FEW_PHOTOGRAPHS,
         ("subject_sft",), "few images of one subject or style, whose class shall stay as it was (prior preservation)",
         settings=_own_prior, first="make the prior set of the same class: visalign generate MODEL --prompts class.txt "
         "--samples-per-prompt 200 -o class_images"),
    Rule("mixed", "captioned images", lambda look: _images(look) and look.modality == "image", ("tiny_mixed",),
         "further sets learn together with these, by shares; add them to data.sources", settings=_mixed),
    # Votes by seed
    Rule("votes", "votes on the model's own images by seed (a_seed, b_seed, choice)", _kind("votes"),
         ("online/d3po_votes",), "people chose between the model's own samples, which are drawn again from their seeds",
         begin=True),
    # Prompts alone
    Rule("grpo", "prompts", _prompts,
         ("online/sd35_flow_grpo", "online/flow_grpo", "online/flux2_klein_grpo", "online/qwen_image_grpo",
          "online/z_image_grpo", "edit/kontext_grpo", "edit/qwen_edit_grpo", "edit/tiny_edit_grpo",
          "video/wan21_flow_grpo", "video/wan22_grpo", "video/wan21_i2v_flow_grpo", "video/hunyuan15_grpo",
          "video/ltx2_grpo", "video/flow_grpo"),
         "prompts alone are there, so a reward teaches on the model's own samples; Flow-GRPO has the most published "
         "experience", begin=True, prompted=True),
    Rule("ddpo", "prompts", _prompts, ("online/sdxl_ddpo", "online/ddpo"),
         "prompts alone are there, so a reward teaches on the model's own samples; DDPO is the method for diffusion "
         "models", begin=True, prompted=True),
    Rule("dance", "prompts", _prompts,
         ("online/flux_dance_grpo", "online/dance_grpo", "video/hunyuan_dance_grpo", "video/wan21_dance_grpo",
          "video/dance_grpo"), "DanceGRPO: another stochastic sampler, and advantages of several rewards added",
         begin=True, prompted=True),
    Rule("nft", "prompts", _prompts,
         ("online/sd35_nft", "online/nft", "online/sana_nft", "online/qwen_image_nft", "online/z_image_nft",
          "edit/qwen_edit_nft", "video/wan21_nft", "video/nft"),
         "DiffusionNFT: any solver, no likelihoods, large moves; mind the diversity", begin=True, prompted=True),
    Rule("awm", "prompts", _prompts, ("online/sd35_awm", "online/awm"), "AWM: as DiffusionNFT, by weighted matching",
         prompted=True),
    Rule("dgpo", "prompts", _prompts, ("online/sd35_dgpo", "online/dgpo"),
         "DGPO: DPO between the better and the worse part of each group, with any solver; in our comparison a small "
         "gain that cost no diversity", prompted=True),
    Rule("crd", "prompts", _prompts, ("online/sd35_crd", "online/crd"),
         "CRD: as DiffusionNFT, by matching how far rewards lie above their group's mean; held to the guided model",
         prompted=True),
    Rule("grpo-fast", "prompts", _prompts, ("online/sd35_flow_grpo_fast", "online/flow_grpo_fast"),
         "every pass counts: a random window of steps is trained", prompted=True),
    Rule("mix-grpo", "prompts", _prompts, ("online/flux_mix_grpo", "online/mix_grpo"),
         "every pass counts: a sliding window of steps is trained; the surest gain for its passes in our comparison",
         prompted=True),
    Rule("mix-grpo-flash", "prompts", _prompts, ("online/flux_mix_grpo_flash", "online/mix_grpo_flash"),
         "as mix-grpo, with fewer steps after the window: fewer passes to draw a sample", prompted=True),
    Rule("grpo-guard", "prompts", _prompts,
         ("online/sd35_grpo_guard", "online/grpo_guard", "video/wan21_grpo_guard", "video/grpo_guard"),
         "training drifts, or its ratios are biased", prompted=True),
    Rule("tempflow", "prompts", _prompts, ("online/sd35_tempflow", "online/tempflow"),
         "noisy steps, which decide the layout, count more; it over-optimises sooner, so keep the guard",
         prompted=True),
    Rule("diverse", "prompts", _prompts, ("online/sd35_diverse", "online/diverse"),
         "diversity within a prompt shall stay: rare kinds of samples earn a bonus", prompted=True),
    Rule("branch-grpo", "prompts", _prompts, ("online/sd35_branch_grpo", "online/branch_grpo"),
         "samples are dear to draw: those of a prompt share their first steps, and each step is credited by itself, "
         "which gained clearly more than the same without branches", prompted=True),
    Rule("euphonium", "prompts", _prompts, ("video/wan21_euphonium", "online/euphonium"),
         "a latent reward is there, or can be trained from comparisons: samples follow it, and it credits each step",
         prompted=True, first="train the latent reward with `visalign guide train`, and name its run in "
         "rollout.guide.source"),
    Rule("marble", "prompts", _prompts, ("online/sd35_marble", "online/marble"),
         "several rewards shall all rise, and you do not want to weigh them by hand", prompted=True),
    Rule("constrained", "prompts", _prompts, ("online/sd35_constrained", "online/constrained"),
         "a reward is hacked beyond some value that is known: it is raised to there and held, where a sum of rewards "
         "pays for it with the others", prompted=True),
    Rule("worst-group", "prompts", _prompts, ("online/sd35_worst_group", "online/worst_group"),
         "rewards speak for groups of people, and none shall be left behind", prompted=True),
    Rule("hi-grpo", "prompts", _prompts, ("online/sd35_hi_grpo", "online/hi_grpo", "video/wan21_hi_grpo",
                                           "video/hi_grpo"),
         "some rewards see the layout and others the texture: each counts at the steps that decide it",
         prompted=True),
    Rule("pref-grpo", "prompts", _prompts, ("online/sd35_pref_grpo", "online/pref_grpo"),
         "the reward compares two samples, or its scale means nothing: win rates within the group",
         prompted=True),
    Rule("flow-dppo", "prompts", _prompts, ("online/sd35_flow_dppo", "online/flow_dppo"),
         "clipping by how far the policy has moved, not by the ratio", prompted=True),
    Rule("mc-grpo", "prompts", _prompts, ("online/sd35_mc_grpo", "online/mc_grpo"),
         "groups are small: the median is the baseline", prompted=True),
    Rule("draft", "prompts", _prompts, ("online/sd35_draft", "online/draft"),
         "the reward is differentiable: the sharpest gradient, and the fastest way to hack", prompted=True),
    Rule("direct-align", "prompts", _prompts, ("online/flux_direct_align", "online/direct_align"),
         "the reward is differentiable: its gradient at any noise level for one pass, by what two words add",
         prompted=True),
    Rule("d2align", "prompts", _prompts, ("online/flux_d2align", "online/d2align"),
         "a CLIP reward's own taste costs diversity: a learnt direction takes it out of the reward first",
         prompted=True),
    Rule("d3po", "prompts", _prompts, ("online/sdxl_d3po", "online/d3po"),
         "pairs of the model's own samples, ranked by the reward as they are drawn", prompted=True),
    Rule("spo", "prompts", _prompts, ("online/sd15_spo", "online/spo"),
         "a guide of the model is there, or can be trained: it sets candidates of each step against each other",
         prompted=True, first="train the guide: see the recipe's first lines"),
    Rule("pairs-in-group", "prompts", _prompts, ("online/pairs_in_group",),
         "a reward that is written down and right or wrong in levels", prompted=True),
    Rule("raft", "prompts", _prompts, ("online/sd35_raft", "online/raft"), "a baseline: SFT on the best of each group",
         prompted=True),
    Rule("feedback", "prompts", _prompts, ("ai_feedback", "video/flow_dpo", "edit/tiny_edit_dpo"),
         "the model samples once, a reward ranks the samples, and pairs are learnt: cheaper than sampling in training",
         prompted=True),
    Rule("capo", "prompts", _prompts, ("tiny_capo",), "as feedback, with several rewards at once, none at the cost of "
         "another", prompted=True),
    Rule("feedback-rwr", "prompts", _prompts, ("video/flow_rwr",), "as feedback, learning from how good each sample is",
         prompted=True),
    Rule("feedback-sft", "prompts", _prompts, ("video/sft",), "as feedback, imitating the best", prompted=True),
    Rule("rewrite", "prompts", _prompts, ("language/adapt_sd3", "language/adapt_wan"),
         "a language model learns to write the prompts, and the generator stays as it is", prompted=True),
    # Rewards of one's own
    Rule("reward", "items that are good or bad in named dimensions", _kind("items"), ("reward_model/single_items",),
         "the items are labelled good or bad in dimensions, which is what a reward is trained on", begin=True),
    Rule("reward", "pairs with strengths", lambda look: _pairs(look) and look.strengths, ("reward_model/strength",),
         "a reward of your own, for which clear preferences weigh more"),
    Rule("reward", "pairs", _compared, ("reward_model/open_clip",),
         "a reward of your own, which then scores any sample"),
    Rule("reward-forward", "pairs", _compared, ("reward_model/forward",),
         "the same from labels of which some are flipped, a share that is learnt"),
    Rule("reward-peers", "pairs", _compared, ("reward_model/peers",),
         "the same from many flipped labels: each member leaves out what another finds hard"),
    Rule("reward-decorrelated", "pairs", _compared, ("reward_model/decorrelated",),
         "the same, kept from paying for brightness, saturation and the like"),
    Rule("reward-voters", "pairs with a column user, 5 or more of each of several users",
         lambda look: _compared(look) and taste_known(look), ("reward_model/voters",),
         "a reward that scores for a user, each a mixture of a few tastes"),
    Rule("reward-latents", "pairs with a column user, 5 or more of each of several users",
         lambda look: _compared(look) and taste_known(look), ("reward_model/voters_variational",),
         "the same by an encoder, which reads a new user without training"),
    Rule("reward-groups", "pairs with a column user, 5 or more of each of several users",
         lambda look: _compared(look) and taste_known(look), ("reward_model/groups",),
         "the same by a few groups of users, each with a reward of its own"),
    Rule("reward-made", "pairs", _compared, ("reward_model/crome",),
         "a reward that learns also from pairs made of these, one thing changed in each"),
    Rule("reward-general", "pairs", _compared, ("reward_model/general",),
         "a reward that only compares, for preferences that go round in circles"),
    Rule("vlm-reward", "pairs", _pairs, ("reward_model/vlm",), "the same on a vision-language model"),
    Rule("guide", "pairs", _compared, ("guide/wan21", "guide/tiny_sd3", "guide/tiny_wan"),
         "steers sampling by a reward of latents; no weight of the generator changes"),
    # Language models
    Rule("dpo", "pairs of text about images", lambda look: look.kind == "text pairs" and look.images,
         ("language/vlm_dpo",), "the pairs are answers about images, so a vision-language model learns", begin=True),
    Rule("dpo", "pairs of text", _text("text pairs"), ("language/dpo",),
         "the pairs are of text, so a language model learns which of two answers is preferred", begin=True),
    Rule("reward", "pairs of text", _text("text pairs"), ("language/reward",),
         "a reward of text of your own, which then scores any answer"),
    Rule("kto", "answers with a label", lambda look: look.kind == "text labels" and bool(look.good and look.bad),
         ("language/dpo",), "each answer is good or bad by itself (column label), and nothing is compared", begin=True,
         settings=lambda look: {"objective": {"name": "kto"}, "train.batch_size": 8}),
    Rule("sft", "answers to imitate", _text("text answers", "text labels"), ("language/dpo",),
         "only good answers are there, with nothing that they are preferred to: the model imitates them", begin=True,
         settings=lambda look: {"objective": {"name": "sft"}}),
    Rule("opa", "answers about images, corrected, with the truth", _kind("corrected"), ("language/opa_dpo",),
         "own answers, their corrections and the truth stand side by side", begin=True,
         first="imitate truth and corrections: visalign lm train language/opa_dpo objective='{name: sft}' "
         "output.folder=runs/vlm-opa-sft optim.lr=1e-5"),
    Rule("dialogues", "dialogues", _kind("dialogues"), ("language/dpo",),
         "what users said next shows which answers they liked, which makes pairs", begin=True,
         settings=lambda look: {"data.path": "dialogue-pairs/pairs.jsonl"},
         first="make the pairs: visalign data dialogues {source} -o dialogue-pairs"),
    Rule("persuasion", "questions with a right and a wrong answer", _kind("persuasion"), ("language/persuasion",),
         "right and wrong answers make dialogues that teach when to give in", begin=True),
    Rule("grpo", "prompts for a language model", _prompts, ("language/grpo",),
         "prompts alone are there, so a reward teaches on the model's own answers", begin=True, prompted=True),
    Rule("mc-grpo", "prompts for a language model", _prompts, ("language/mc_grpo",),
         "groups are small: the median is the baseline", prompted=True),
    Rule("trpa", "prompts for a language model", _prompts, ("language/trpa",),
         "answers are right or wrong in levels", prompted=True),
    Rule("vsrm", "prompts for a language model", _prompts, ("language/vsrm",),
         "steps of an answer can be checked for what they add", prompted=True),
    Rule("feedback", "prompts for a language model", _prompts, ("language/dpo",),
         "the model answers once, a reward ranks, and pairs are learnt", prompted=True),
    Rule("rounds", "prompts for a language model", _prompts, ("language/rounds",),
         "the same again and again, each round from the model before", prompted=True),
    Rule("rounds-tree", "prompts for a language model", _prompts, ("language/rounds_tree",),
         "pairs of steps, found by tree search", prompted=True),
    Rule("rounds-irft", "prompts for a language model", _prompts, ("language/rounds_irft",),
         "success can be told from failure, and a tree search finds both", prompted=True),
    Rule("rounds-upo", "prompts for a language model", _prompts, ("language/rounds_upo",),
         "pairs of which the reward is unsure are left out", prompted=True),
)

ELSEWHERE: dict[str, str] = {
    "language/rounds_cream": "goes on from the run of language/dpo, and compares two of its models",
    "reward_model/ratings": "learns the columns <dimension>_a and <dimension>_b, which rate both sides of a pair",
    "reward_model/ratings_then_bt": "goes on from the run of reward_model/ratings, with comparisons",
    "reward_model/sources": "learns from several sets of labels, which it weighs against each other",
    "reward_model/attacked": "goes on from a trained reward, with what `visalign reward attack` found of it",
    "reward_model/critique": "learns the columns reason_a and reason_b too, which say why",
    "reward_model/tiny_reward": "makes the embedded reward from drawings that it spoils itself",
    "online/flow_grpo_ray": "as online/flow_grpo, with samples drawn on a Ray cluster",
    "online/served_reward": "as online/flow_grpo, with a reward that is served by another process",
    "online/guarded": "hacks a reward on purpose, to show the guard",
}
"""Recipes that no data call for, and what they are for."""

BESIDE: dict[str, str] = {
    "rewards": "a combination of rewards, for reward.models, score and evaluate",
    "accelerate": "a configuration of accelerate, for several processes",
    "clusters": "a job of a cluster, which starts a recipe",
}
"""Folders of files that are no recipes."""
