"""What a model has before it is trained: LoRAs below, one that is trained on, and which of them the reference has."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import load_tiny
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.files.sketching import with_start
from visalign.generators.lora.adapters import HELD, TRAINED, remove_adapters
from visalign.generators.lora.export import write_loras
from visalign.generators.lora.layers import LoraMatrices, joined, taken
from visalign.generators.lora.start import beneath

Q, FF = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def pair(stem, rank, out, into, seed=0, alpha=None, ends=("lora_A.weight", "lora_B.weight")):
    rng = torch.Generator().manual_seed(seed)
    found = {f"{stem}.{ends[0]}": torch.randn(rank, into, generator=rng) / into**0.5,
             f"{stem}.{ends[1]}": torch.randn(out, rank, generator=rng)}
    return found if alpha is None else found | {f"{stem}.alpha": torch.tensor(float(alpha))}


@pytest.fixture
def files(tmp_path):
    """Three LoRAs for tiny-sd3: two layers of rank 2 and alpha 1, one of rank 3, and one with a text encoder's."""
    kohya = ("lora_down.weight", "lora_up.weight")
    save_file(pair(f"transformer.{Q}", 2, 16, 16, 1, 1, kohya) | pair(f"transformer.{FF}", 2, 16, 64, 2, 1, kohya),
              tmp_path / "two.safetensors")
    save_file(pair(f"transformer.{Q}", 3, 16, 16, 3), tmp_path / "three.safetensors")
    save_file(pair(f"transformer.{Q}", 2, 16, 16, 4) | pair(TEXT, 2, 16, 16, 5), tmp_path / "text.safetensors")
    return lambda name: str(tmp_path / f"{name}.safetensors")


_READ = {}


@pytest.fixture
def loaded(pipelines):
    """The tiny generator with the LoRAs of these settings, as `load_generator` gives it. It is read once and every call
    gives the same one, freed of all that the last one had."""
    def get(name="sd3", **changes):
        generator = _READ.setdefault(name, None) or load_tiny(pipelines(name), name)
        _READ[name] = generator
        for part in (*generator.networks().values(), *generator.text_encoders().values()):
            remove_adapters(part)
        generator.tuning = None
        settings = ModelSettings(source=str(pipelines(name)), **changes)
        generator.put_on(beneath(generator, settings), settings.tuning)
        return generator

    return get


@torch.no_grad()
def seen(generator, conditioning=None):
    """One prediction on fixed inputs."""
    x = torch.randn(2, *generator.latent_shape(), generator=torch.Generator().manual_seed(0))
    t = generator.process.times_at(torch.tensor([0.3, 0.8]))
    return generator.predict(x, t, conditioning or generator.encode_prompts(["a red fruit", "a cat"]))


def referred(generator):
    with generator.reference():
        return seen(generator)


def moved(parameters):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_what_is_trained_on_starts_as_the_file_says_and_the_reference_stays_there(pipelines, loaded, files):
    plain = seen(loaded())
    started = load_tiny(pipelines("sd3"), "sd3", lora={"start": files("two")})
    before = seen(started)
    parameters = started.make_trainable("lora", start=files("two"))
    assert {tuple(p.shape) for p in parameters} == {(2, 16), (16, 2), (2, 64)} and len(parameters) == 4
    assert torch.equal(seen(started), before) and torch.equal(referred(started), before)
    assert relative(before, plain) > 1e-2
    moved(parameters)
    assert torch.equal(referred(started), before) and relative(seen(started), before) > 1e-2
    assert all(p.requires_grad for p in parameters)


def test_the_reference_may_be_the_checkpoint_without_any_lora(loaded, files):
    plain = seen(loaded())
    settings = {"lora": {"start": files("two")}, "loras": [{"path": files("three")}]}
    started = loaded(**settings)
    before = seen(started)
    started.make_trainable("lora", reference="base", start=files("two"))
    assert torch.equal(seen(started), before) and torch.equal(referred(started), plain)
    assert relative(before, plain) > 1e-2


@torch.no_grad()
def test_a_lora_below_acts_at_its_strength_and_two_are_added(loaded, files):
    below = loaded(loras=[{"path": files("two"), "strength": 0.5}, {"path": files("three"), "strength": -2}])
    layer = below.denoiser.get_submodule(Q)
    x = torch.randn(4, 16)
    two, three = load_file(files("two")), load_file(files("three"))
    by_hand = 0.5 * 0.5 * two[f"transformer.{Q}.lora_up.weight"] @ two[f"transformer.{Q}.lora_down.weight"] \
        - 2 * three[f"transformer.{Q}.lora_B.weight"] @ three[f"transformer.{Q}.lora_A.weight"]
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ by_hand.T)
    assert taken(below.denoiser, HELD)[Q].rank == 5
    before = seen(below)
    parameters = below.make_trainable("lora", rank=4, alpha=2)
    assert torch.equal(seen(below), before) and torch.equal(referred(below), before)
    assert all("default" in name for name, _ in below.trainable_parameters())
    moved(parameters)
    assert torch.equal(referred(below), before)


def test_joining_is_exact():
    """B1 A1 / 2 + 3 B2 A2 is one product of rank 5."""
    a, b = (LoraMatrices(torch.randn(r, 7, dtype=torch.float64), torch.randn(9, r, dtype=torch.float64), alpha)
            for r, alpha in ((2, 1.0), (3, 9.0)))
    both = joined({"x": a}, {"x": b, "y": b})
    torch.testing.assert_close(both["x"].up @ both["x"].down, a.raw @ a.down / 2 + 3 * b.raw @ b.down)
    assert both["x"].rank == 5 and torch.equal(both["y"].up, 3 * b.raw) and both["y"].scale == 1


@pytest.mark.parametrize("name, held, text", [("sd3", "three", None), ("sd3", "text", "text_encoder")])
def test_the_export_reproduces_what_lay_below_and_what_was_trained_from_the_base(loaded, files, tmp_path, name, held,
                                                                                 text):
    settings = {"loras": [{"path": files(held), "strength": 0.7}], "lora": {"start": files("two")}}
    trained = loaded(**settings)
    moved(trained.make_trainable("lora", start=files("two")))
    wanted, conditioning = seen(trained), trained.encode_prompts(["a red fruit"])
    written = [file.name for file in write_loras(trained, tmp_path / "export")]
    assert written == ["pytorch_lora_weights.safetensors", "lora_comfyui.safetensors"]
    for file in written:
        again = loaded()
        again.load_adapter(tmp_path / "export" / file)
        assert relative(seen(again), wanted) < 5e-6
        for key, value in again.encode_prompts(["a red fruit"]).items():
            torch.testing.assert_close(value, conditioning[key])
    plain = loaded()
    stripped = load_file(tmp_path / "export" / written[0])
    assert bool(text) == any(key.startswith("text_encoder.text_model.") for key in stripped)
    plain.pipeline.load_lora_weights(stripped)
    assert relative(seen(plain), wanted) < 5e-6


def test_the_interface_file_names_text_encoders_as_kohya_does(loaded, tmp_path):
    save_file(pair("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 2, 16, 16, 1, 1,
                   ("lora_down.weight", "lora_up.weight"))
              | {key: value for number in (1, 2) for key, value in pair(
                  f"lora_te{number}_text_model_encoder_layers_0_mlp_fc1", 2, *FC1[number], number, 1,
                  ("lora_down.weight", "lora_up.weight")).items()}, tmp_path / "l.safetensors")
    generator = loaded("sdxl", lora={"start": str(tmp_path / "l.safetensors")})
    generator.make_trainable("lora")
    write_loras(generator, tmp_path)
    before, after = (load_file(tmp_path / f"{file}.safetensors") for file in ("l", "lora_kohya"))
    assert before.keys() == after.keys()
    for stem in {key.removesuffix(".alpha") for key in before if key.endswith(".alpha")}:
        torch.testing.assert_close(after[f"{stem}.lora_up.weight"] @ after[f"{stem}.lora_down.weight"],
                                   0.5 * before[f"{stem}.lora_up.weight"] @ before[f"{stem}.lora_down.weight"])
        assert after[f"{stem}.alpha"] == 2


FC1 = {1: (32, 16), 2: (32, 16)}


def test_embeddings_of_a_changed_text_encoder_have_other_keys_in_the_cache(loaded, files, tmp_path):
    from visalign.sampling.encoding_cache import EncodingCache

    def key(**changes):
        return EncodingCache(tmp_path / "cache", loaded(**changes)).prompt_key("a cat")

    plain, weak, strong = key(), *(key(loras=[{"path": files("text"), "strength": s}]) for s in (0.5, 1.0))
    assert len({plain, weak, strong}) == 3
    assert key(loras=[{"path": files("two")}]) == plain


@pytest.mark.parametrize("reference", ["start", "base"])
def test_full_tuning_takes_the_loras_in(pipelines, loaded, files, tmp_path, reference):
    generator = load_tiny(pipelines("sd3"), "sd3", loras=[{"path": files("text")}], tuning="full")
    texts = generator.encode_prompts(["a red fruit", "a cat"])
    plain = loaded()
    before = seen(generator)
    parameters = generator.make_trainable("full", reference=reference)
    assert not [name for name, _ in generator.denoiser.named_parameters() if "lora" in name]
    assert relative(seen(generator), before) < 1e-5
    own = before if reference == "start" else seen(plain, texts)
    assert relative(referred(generator), own) < 1e-5
    assert len(parameters) == len(list(plain.denoiser.parameters()))
    generator.pipeline.save_pretrained(tmp_path / "whole")
    again = load_generator(ModelSettings(source=str(tmp_path / "whole"), precision="fp32", prompt_tokens=8), "cpu")
    assert relative(seen(again), before) < 1e-5


@pytest.mark.parametrize("lora, words", [
    ({"rank": 4}, "model.lora.rank 4: .* has rank 2; set model.lora.rank=2"),
    ({"rank": 2, "alpha": 2.0}, "model.lora.alpha 2.0: .* has alpha 1.0"), ({"kind": "rslora"}, "has kind lora")])
def test_a_file_decides_its_own_rank(pipelines, files, lora, words):
    def settings(**more):
        return ModelSettings(source=str(pipelines("sd3")), prompt_tokens=8, lora={"start": files("two"), **more})

    found = with_start(settings()).lora
    assert (found.kind, found.rank, found.alpha) == ("lora", 2, 1.0)
    assert with_start(ModelSettings.model_validate(with_start(settings()).model_dump())).lora == found
    with pytest.raises(UserError, match=words):
        with_start(settings(**lora))


TEXT_ONLY = {f"{TEXT}.{key}": value for key, value in (("lora_A.weight", torch.ones(2, 16)),
                                                       ("lora_B.weight", torch.ones(16, 2)))}
ZERO = {f"transformer.{Q}.lora_A.weight": torch.ones(2, 16), f"transformer.{Q}.lora_B.weight": torch.zeros(16, 2)}
HADA = {f"lycoris_{Q.replace('.', '_')}.hada_w{n}_{s}": torch.ones((16, 2) if s == "a" else (2, 16))
        for n in (1, 2) for s in "ab"}


@pytest.mark.parametrize("tensors, settings, words", [
    (TEXT_ONLY, ("lora",), "text encoders alone.*model.loras"),
    (ZERO, ("lora",), "^model.lora.start .*all its products are 0"),
    (ZERO, ("loras",), "^model.loras .*all its products are 0"),
    (HADA, ("loras",), "is a loha, and only plain"),
    (HADA | pair(f"transformer.{FF}", 2, 16, 64), ("lora",), "holds loha and lora layers together"),
    ({key.replace("to_q", "to_nothing"): value for key, value in ZERO.items()}, ("loras",),
     "^model.loras: lora .*1 of 1 adapted layers"),
    ({key: value[:, :8].clone() if "lora_A" in key else value for key, value in ZERO.items()}, ("lora",),
     "^model.lora.start: lora .*2 x 8"),
    (TEXT_ONLY | {key: value + 1 for key, value in ZERO.items()}, ("lora", "reference"),
     "change the text encoders .text_encoder.")])
def test_what_cannot_be_below_or_started_from_is_one_sentence(loaded, tmp_path, tensors, settings, words):
    save_file(tensors, tmp_path / "l.safetensors")
    path = str(tmp_path / "l.safetensors")
    given = {"lora": {"start": path}, "loras": [{"path": path}], "reference": "base"}
    with pytest.raises(UserError, match=words) as raised:
        loaded(**{name: given[name] for name in settings})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("settings, words", [
    ({"tuning": "full", "lora": {"start": "x"}}, "name the file in model.loras"),
    ({"loras": [{"path": "x"}], "lora": {"kind": "dora"}}, "one file cannot hold them and a dora"),
    ({"quantization": "int8", "lora": {"kind": "dora"}}, "use lora or rslora"),
    ({"lora": {"start": "x", "targets": ["to_q"]}}, "model.lora.targets: the file"),
    ({"lora": {"start": "x", "rank_pattern": {"to_q": 2}}}, "model.lora.rank_pattern: the file"),
    ({"lora": {"kind": "lokr", "dropout": 0.1}}, "model.lora.dropout: there is none")])
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ModelSettings(source="m", **settings)


KINDS = ("lora", "rslora", "dora", "loha", "lokr")


@pytest.mark.parametrize("kind, name", [*((kind, "sd3") for kind in KINDS), ("loha", "sd15")])
def test_every_kind_starts_at_no_difference_reaches_everything_and_comes_back_from_its_file(loaded, tmp_path, kind,
                                                                                            name):
    generator = loaded(name)
    plain = seen(generator)
    parameters = generator.make_trainable("lora", kind=kind, rank=4, alpha=6, rank_pattern={"to_k": 2})
    assert torch.equal(referred(generator), plain) and relative(seen(generator), plain) < 1e-6
    moved(parameters)
    x, t = torch.randn(1, *generator.latent_shape()), generator.process.times_at(torch.tensor([0.4]))
    generator.predict(x, t, generator.encode_prompts(["a cat"])).square().mean().backward()
    missed = [name for name, p in generator.trainable_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in missed if "add_" not in name and "ff_context" not in name]
    wanted = seen(generator)
    assert relative(wanted, plain) > 1e-3 and torch.equal(referred(generator), plain)
    written = write_loras(generator, tmp_path)
    files = {file.name for file in written}
    assert files == ({"lora_lycoris.safetensors"} if kind in ("loha", "lokr") else
                     {"pytorch_lora_weights.safetensors"} if kind == "dora" else
                     {"pytorch_lora_weights.safetensors",
                      "lora_comfyui.safetensors"})
    for file in written:
        again = loaded(name)
        again.load_adapter(file)
        assert relative(seen(again), wanted) < 1e-5
        on = loaded(name, lora={"start": str(file)})
        on.make_trainable("lora", start=str(file))
        assert torch.equal(seen(on), referred(on)) and relative(seen(on), wanted) < 1e-5
    if "pytorch_lora_weights.safetensors" in files:
        theirs = loaded(name)
        theirs.pipeline.load_lora_weights(load_file(tmp_path / "pytorch_lora_weights.safetensors"))
        assert relative(seen(theirs), wanted) < 1e-5


@pytest.mark.parametrize("settings, words", [
    ({"rank_pattern": {"to_kk": 2}}, r"model.lora.rank_pattern to_kk: no adapted layer has that name \(did you mean"),
    ({"alpha_pattern": {"norm1": 2.0}}, "model.lora.alpha_pattern norm1: no adapted layer")])
def test_a_pattern_that_names_no_layer_is_refused(pipelines, settings, words):
    with pytest.raises(UserError, match=words):
        load_tiny(pipelines("sd3"), "sd3", lora=settings)


@torch.no_grad()
def test_patterns_set_rank_and_alpha_of_single_layers(loaded):
    generator = loaded()
    generator.make_trainable("lora", rank=4, alpha=4, rank_pattern={"to_k": 2, Q: 3}, alpha_pattern={"to_out.0": 8})
    layers = taken(generator.denoiser, TRAINED)
    assert layers[Q].rank == 3 and layers[Q.replace("to_q", "to_k")].rank == 2
    assert layers["transformer_blocks.1.attn.to_q"].rank == 4
    assert layers[Q.replace("to_q", "to_out.0")].scale == 2 and layers[Q.replace("to_q", "to_k")].scale == 2
