"""PPD in the offline loop: pairs of known users, whom the network is told of by their other pairs."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.cli import main
from visalign.config import ModelSettings, UserSettings
from visalign.config.load import build_objective, load_config
from visalign.data.rows import hashed_user
from visalign.data.users import check_users
from visalign.errors import UserError
from visalign.evaluation.sources import checkpoint_source, run_source
from visalign.generators import load_generator
from visalign.generators.users import USER
from visalign.objectives import PairErrors
from visalign.sampling.seeds import rng_for
from visalign.sampling.users import in_turn, read_users
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch
from visalign.trainers.offline.noised import NoisedStates, conditioning_of, sample_errors
from visalign.trainers.offline.users import NOBODY_ASKED, Users

SHADES = {"ann": (235, 25), "ben": (25, 235)}
PROMPTS = ("a red fruit", "a dog", "a cat face", "a green leaf", "a house")
PPD = {"model": {"tuning": "user", "user_features": "tiny-clip"}, "eval": UNMEASURED}
USERS = {"context": 2, "dropout": 0.25}


@pytest.fixture
def tastes(tmp_path):
    """Five prompts, judged by Ann, who prefers light pictures, and by Ben, who prefers the same ones dark; Cy judged
    one."""
    lines = []
    for number, prompt in enumerate(PROMPTS):
        files = []
        for shade in (235, 25):
            Image.new("RGB", (16, 16), (shade, shade, 20 * number)).save(tmp_path / f"{number}-{shade}.png")
            files.append(f"{number}-{shade}.png")
        for user, (liked, disliked) in SHADES.items():
            lines.append({"prompt": prompt, "chosen": f"{number}-{liked}.png", "rejected": f"{number}-{disliked}.png",
                          "user": user})
    lines.append(lines[0] | {"user": "cy"})
    file = tmp_path / "tastes.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return file


def ppd(recipe, tastes, kind="sd3", **sections):
    data = {"path": str(tastes), "users": USERS, "holdout": 0.0} | sections.pop("data", {})
    return recipe(kind, **PPD | {"data": data} | sections)


class Kept:
    """A cache of features that are told by their keys."""

    def features(self, keys):
        return torch.stack([torch.randn(4, generator=rng_for(key)) for key in keys])


def users(items, held_out=(), **settings):
    made = object.__new__(Users)
    made.settings, made.source, made.cache, made.seed = UserSettings(**{"context": 2} | settings), "here", Kept(), 0
    made._identity, made._network, made._pairs, made._prompts, made._learnt = "", None, {}, {}, []
    made.cache.find_shared = lambda: None
    return made, *made.split(list(items), list(held_out))


def pair(user, prompt, number=0):
    name = f"{user} {prompt} {number}"
    return EncodedPair(prompt, prompt, f"{name} w", f"{name} l", name, 1.0, None, None, user=user)


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_it_begins_at_log_two_moves_its_own_matrices_and_leaves_the_rest(recipe, tastes, tmp_path, kind):
    run(ppd(recipe, tastes, kind))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert {name.split(".")[-3] for name in first} == {"user"}
    assert all(not torch.equal(first[name], last[name]) for name in first if name.endswith("to_v.weight"))
    trained = rows(folder)
    assert len(trained) == 4 and trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert all(torch.tensor(row["loss"]).isfinite() for row in trained)
    assert set(read_users(folder)) == {hashed_user("ann"), hashed_user("ben")}
    assert json.loads((folder / "export" / "user_adapter.json").read_text()) == {
        "features": "tiny-clip", "context": 2, "width": 256}
    base, source = load_generator(load_config(folder / "config.yaml").model, "cpu"), run_source("aligned", folder)
    loaded, kept = source.load("cpu"), checkpoint_source("step 4", folder / "checkpoints" / "step-00000004").load("cpu")
    assert torch.equal(loaded.user_of("a dog"), kept.user_of("a dog")) and base.user_of is None
    drawn = [next(iter(each.sample(["a dog"], [0], steps=2, guidance_scale=1.0)))[0].tobytes()
             for each in (base, loaded, kept)]
    assert drawn[1] == drawn[2] != drawn[0]
    assert "--user pairs.jsonl" in (folder / "export" / "README.md").read_text()


def test_a_run_that_was_cut_continues_to_the_same_bits(recipe, tastes, tmp_path):
    whole = ppd(recipe, tastes, name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0})
    run(whole)
    cut = ppd(recipe, tastes, name="cut.yaml", output={"folder": str(tmp_path / "cut")})
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "data" in fails(cut, "--resume", "train.steps=5", "data.users.dropout=0.5")


def test_one_side_at_a_time_and_recomputed_it_learns_the_same(recipe, tastes, tmp_path):
    for name, apart in (("together", False), ("apart", True)):
        run(ppd(recipe, tastes, name=f"{name}.yaml", output={"folder": str(tmp_path / name)},
                train={"steps": 2, "one_side_at_a_time": apart},
                model=PPD["model"] | {"gradient_checkpointing": apart}))
    a, b = weights(tmp_path / "together", 2), weights(tmp_path / "apart", 2)
    for name in a:  # where a gradient is next to 0, Adam turns its rounding into a part of a step of 1e-3
        torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=1e-3)


def test_one_user_told_the_same_is_dpo_on_these_layers():
    """With a constant u the loss and its gradient are those of the written formula, of a network whose attentions have
    the second term's output added by hand; the reference is the base."""
    generator = load_generator(ModelSettings(source="tiny-sd3", precision="fp32"), "cpu")
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *generator.latent_shape(), generator=rng)
    noise = torch.randn(1, *generator.latent_shape(), generator=rng)
    t, prompts = torch.tensor([0.6]), generator.encode_prompts(["a dog"])
    x_t = generator.process.add_noise(latents, noise.repeat(2, 1, 1, 1), t.repeat(2))
    target = generator.process.target(latents, noise.repeat(2, 1, 1, 1), t.repeat(2))
    both = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in prompts.items()}

    def errors():
        return (generator.predict(x_t, t.repeat(2), both) - target).square().flatten(1).mean(1)

    with torch.no_grad():
        base = errors()
    parameters = generator.make_trainable("user", user_features="tiny-clip")
    u = torch.randn(1, 3, generator.user_term.width, generator=rng)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=rng))
    objective = build_objective({"name": "flow_dpo", "beta": 50})
    batch = PairBatch([pair("a", "a dog")], latents[:1], latents[1:], prompts | {USER: u}, torch.ones(1), None, None,
                      torch.ones(1))
    states = NoisedStates(generator, objective, None)
    drawn, told = states.draw(batch, t, noise, []), conditioning_of(generator, batch)
    with states.reference():
        reference = sample_errors(generator, drawn, told)
    policy = sample_errors(generator, drawn, told)
    assert torch.equal(torch.cat([reference["chosen"], reference["rejected"]]), base)
    loss = objective(PairErrors(policy["chosen"], t, torch.ones(1), policy["rejected"], reference["chosen"],
                                reference["rejected"])).loss
    found = torch.autograd.grad(loss, parameters)

    for name, term in generator.user_term.added.items():
        attention = generator.denoiser.get_submodule(name.rpartition(".")[0])
        queries = []

        def add(module, arguments, term=term, attention=attention, queries=queries):
            return (arguments[0] + by_hand(term, attention, queries.pop(), u),)

        attention.to_q.register_forward_hook(lambda m, arguments, output, kept=queries: kept.append(output))
        attention.to_out[0].register_forward_pre_hook(add)
    chosen, rejected = errors()
    inside = -25 * ((chosen - rejected) - (base[0] - base[1]))
    expected = -torch.nn.functional.logsigmoid(inside)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def by_hand(term, attention, query, u):
    heads = attention.heads

    def split(tensor):
        return tensor.view(*tensor.shape[:2], heads, -1).transpose(1, 2)

    q, k, v = split(query), split(u @ term.to_k.weight.T), split(u @ term.to_v.weight.T)
    q = q if attention.norm_q is None else attention.norm_q(q)
    found = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
    return found.transpose(1, 2).flatten(2)


def test_users_are_told_apart_and_the_command_line_samples_for_them(recipe, tastes, tmp_path):
    """Of the same two pictures Ann likes the light one and Ben the dark one; their samples part, in this order."""
    run(ppd(recipe, tastes, data={"users": USERS | {"dropout": 0.0}}, optim={"lr": 0.003},
            train={"steps": 8, "batch_size": 4}, objective={"name": "flow_dpo", "beta": 500}))
    lines = tastes.read_text().splitlines()
    options = [load_config(recipe("sd3")).model.source, "a red fruit", "--steps", "4", "--guidance-scale", "1",
               "--samples-per-prompt", "2", "--precision", "fp32", "--device", "cpu", "--set", "resolution=16",
               "--set", "prompt_tokens=8"]

    def drawn(name, *more):
        result = CliRunner().invoke(main, ["generate", *options, "-o", str(tmp_path / name), *map(str, more)])
        assert result.exit_code == 0, result.output
        return [(tmp_path / name / f"{place:05d}.png").read_bytes() for place in range(2)]

    lora = ("--lora", tmp_path / "run")
    for name, places in (("ann", (2, 4)), ("ben", (3, 5)), ("many", (0, 2, 4))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines[place] for place in places))
    base = drawn("base")
    assert drawn("nobody", *lora) == base
    assert drawn("zero", *lora, "--user", tmp_path / "ann.jsonl", "--user-scale", 0) == base
    ann, ben = (drawn(name, *lora, "--user", tmp_path / f"{name}.jsonl") for name in ("ann", "ben"))
    assert ann != base and ben != base and ann != ben

    def refused(*more):
        result = CliRunner().invoke(main, ["generate", *options, "-o", str(tmp_path / "no"), *map(str, more)])
        assert result.exit_code == 1 and "Traceback" not in result.output, result.output
        return result.output

    assert "holds 3 pairs" in refused(*lora, "--user", tmp_path / "many.jsonl")
    assert "give that run, or its export, as --lora" in refused("--user", tmp_path / "ann.jsonl")
    assert "give both" in refused("--user-scale", 0.5)
    assert "no such file" in refused(*lora, "--user", tmp_path / "nowhere.jsonl")
    assert "is of users" in refused("--negative-adapter", tmp_path / "run", "--guidance-scale", 3)


@pytest.mark.parametrize("options", [
    {"train": {"gradient_accumulation": 2, "steps": 2}, "data": {"caption_dropout": 0.5}},
    {"model": {"precision": "bf16", "gradient_checkpointing": True}, "train": {"steps": 2}}])
def test_options_train(recipe, tastes, tmp_path, options):
    run(ppd(recipe, tastes, **options | {"model": PPD["model"] | options.get("model", {})}))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "run"))


def test_contexts_are_of_the_same_user_and_never_of_the_prompt():
    items = [pair(user, prompt, number) for user in "ab" for prompt in "wxyz" for number in range(2)]
    made, train, _ = users(items, dropout=0.0)
    assert train == items
    seen = set()
    for place, item in enumerate(items * 8):
        others = made._others(item)
        assert len(others) == 6 and all(other.user == item.user and other.prompt != item.prompt for other in others)
        [first], [second] = made.of([item], [place])[USER], made.of([item], [place])[USER]
        assert first.shape == (2, 8) and torch.equal(first, second)
        seen.add((item.where, tuple(first.flatten().tolist())))
    assert len(seen) > len(items)  # drawn anew at other places
    both = made.of(items[:2], [5, 6])[USER]
    assert torch.equal(both[0], made.of(items[:1], [5])[USER][0])


def test_dropout_takes_whole_users_and_measuring_none():
    items = [pair("a", prompt) for prompt in "vwxyz"]
    made, train, _ = users(items, dropout=0.3)
    told = [bool(made.of(items[:1], [place])[USER].abs().max() > 0) for place in range(400)]
    assert 0.6 < sum(told) / len(told) < 0.8
    assert all(made.of([item])[USER].abs().max() > 0 for item in train)


def test_pairs_without_enough_others_are_left_out_and_counted():
    items = [*(pair("a", prompt) for prompt in "xyz"), pair("b", "x"), pair("b", "x", 1), pair("b", "y"),
             pair(None, "x")]
    made, train, held_out = users(items, [pair("a", "q"), pair("b", "q"), pair("c", "q")])
    assert [(item.user, item.prompt) for item in train] == [("a", "x"), ("a", "y"), ("a", "z"), ("b", "y")]
    assert [item.user for item in held_out] == ["a", "b"]
    assert made.counts == {"users": 2, "users held out": 0, "pairs of users with too few": 4}


def test_held_out_users_are_measured_and_never_learnt_from():
    names = {name: hashed_user(name) for name in ("one", "two")}
    items = [pair(user, prompt) for user in names.values() for prompt in "wxyz"]
    made, train, held_out = users(items, [pair(user, "q") for user in names.values()], holdout=("two",))
    assert {item.user for item in train} == {names["one"]}
    assert {item.user for item in held_out} == set(names.values())
    assert made.of([held_out[1]])[USER].abs().max() > 0 and made.counts["users held out"] == 1


@pytest.mark.parametrize("judged, settings, words", [
    ({(None, "x"): 3}, {}, "none of 3 pairs says whose it is.*column user .*sdxl_dpo"),
    ({("a", "x"): 2, ("b", "y"): 1}, {}, "no user to train on has the 5 pairs .* the most pairs, a, has 2"),
    ({("a", "x"): 9}, {}, "or not enough about different prompts"),
    ({("a", "x"): 9}, {"holdout": ("me",)}, "data.users.holdout me: no pair of here")])
def test_data_of_too_few_users(judged, settings, words):
    with pytest.raises(UserError, match=words):
        check_users(judged, UserSettings(**settings), "here")


def test_mistakes_end_in_a_sentence_before_a_model_is_loaded(recipe, tastes, pairs_file, monkeypatch):
    from visalign.jobs import train as module

    monkeypatch.setattr(module, "load_generator", lambda *_, **__: pytest.fail("a model was loaded"))
    for sections, words in (
            ({"data": {"path": str(pairs_file)}}, "says whose it is"),
            ({"data": {"users": {"context": 8}}}, "lower data.users.context"),
            ({"objective": {"name": "sft"}}, "compares no two samples"),
            ({"model": PPD["model"] | {"user_features": "tiny-clap"}}, "tiny-clap"),
            ({"model": {"tuning": "user"}}, "model.user_features and model.tuning user go together"),
            ({"model": {"tuning": "lora"}}, "data.users and model.tuning user go together"),
            ({"model": PPD["model"] | {"compile": True}}, "model.compile"),
            ({"model": PPD["model"] | {"loras": [{"path": "a.safetensors"}]}}, "model.loras"),
            ({"model": PPD["model"] | {"lora": {"start": "a.safetensors"}}}, "model.lora.start"),
            ({"model": PPD["model"] | {"offload": "blocks"}}, "model.offload"),
            ({"data": {"users": {"context": 0}}}, "at least 1")):
        assert words in fails(ppd(recipe, tastes, **sections)), words


def test_online_training_is_refused(online_recipe):
    assert "learns from pairs whose users are known" in fails(online_recipe(model=PPD["model"]))


def test_each_prompt_has_its_user_and_others_ask_nobody():
    user_of = in_turn(torch.arange(3.0).view(3, 1, 1))
    assert {user_of(f"prompt {number}").item() for number in range(40)} == {0, 1, 2}
    assert torch.equal(user_of("a dog"), user_of("a dog"))
    assert NOBODY_ASKED.of([], []) == {} and NOBODY_ASKED.split([1], [2]) == ([1], [2])
