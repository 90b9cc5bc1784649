"""LoRA files, checkpoints and rewards' folders as downloads, other programs and mistakes leave them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from tests.hostile.case import Case

Q = "transformer_blocks.0.attn.to_q"
GENERATE = "generate {sd3} apple --samples-per-prompt 1 --steps 1 -o out --lora "
A, B = torch.ones(2, 16), torch.ones(16, 2)


def tensors(**named) -> bytes:
    return save({name.replace("__", "."): tensor for name, tensor in named.items()})


def pair(stem, down=A, up=B, ends=("lora_A.weight", "lora_B.weight"), **more) -> bytes:
    return save({f"{stem}.{ends[0]}": down.clone(), f"{stem}.{ends[1]}": up.clone(), **more})


def lora(name, content, *says, **options) -> Case:
    return Case(f"lora-{name}", GENERATE + "l.safetensors", ("visalign: lora l.safetensors", *says),
                given={"l.safetensors": content}, **options)


GOOD = pair(f"transformer.{Q}")
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}


def trained_on(name, settings, *says, content=GOOD) -> Case:
    """A LoRA in a recipe's settings; {folder} and models are not read."""
    return Case(f"below-{name}", f"train r.yaml --dry-run model={{sd3}} model.prompt_tokens=8 {settings}", says,
                given={"l.safetensors": content, "r.yaml": RECIPE, "pairs.jsonl": "", "prompts.txt": "an apple\n"})


RECIPE = """model: {source: tiny-sd3}
data: {feedback: {prompts: prompts.txt, reward: tiny-clip}}
objective: {name: flow_dpo}
eval: {prompts: prompts.txt}
"""


def adapter(name, settings, *says, file="adapter_model.safetensors", **options) -> Case:
    given = {f"a/{file}": pair(f"base_model.model.{Q}")}
    if settings is not None:
        given["a/adapter_config.json"] = settings if isinstance(settings, str) else json.dumps(settings)
    return Case(f"adapter-{name}", GENERATE + "a", says, given=given, **options)


def model(name, source, given, *says) -> Case:
    return Case(f"model-{name}", f"generate {source} apple --samples-per-prompt 1 --steps 1 -o out",
                (f"model {source}", *says), given=given)


def tiny_clip_without(*names):
    def write(folder: Path) -> None:
        import shutil

        from visalign.rewards.openclip import EMBEDDED_CLIPS

        shutil.copytree(EMBEDDED_CLIPS["tiny-clip"], folder / "reward")
        for name in names:
            (folder / "reward" / name).unlink()
        from PIL import Image

        (folder / "images").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "images" / "a.png")
        (folder / "images" / "a.txt").write_text("an apple")

    return write


CASES = [
    lora("web-page", "<html><body>401 Unauthorized</body></html>", "web page"),
    lora("json", '{"error": "not found"}', "cannot be read as .safetensors"),
    lora("lfs-pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs"),
    lora("empty-file", b"", "empty"), lora("nothing-in-it", save({}), "no tensor"),
    lora("cut-off", GOOD[:len(GOOD) - 40], "cut off"), lora("cut-in-header", GOOD[:60], "cut off"),
    lora("zip", b"PK\x03\x04" + bytes(40), "pickle"), lora("zeros", bytes(64), "cannot be read"),
    lora("not-a-number", pair(f"transformer.{Q}", up=torch.full((16, 2), torch.nan)), "1 of 2 tensors are not finite"),
    lora("infinite", pair(f"transformer.{Q}", down=torch.full((2, 16), torch.inf)), "not finite", "lora_a"),
    lora("of-sdxl", pair("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"), "1 of 1", "diffusion"),
    lora("of-flux", pair("transformer.single_transformer_blocks.3.attn.to_q"), "flux"),
    lora("of-wan", pair("diffusion_model.blocks.0.self_attn.q"), "wan"),
    lora("of-kohyas-sd", pair("lora_unet_down_blocks_0_attentions_0_proj_in",
                              ends=("lora_down.weight", "lora_up.weight")), "diffusion"),
    lora("of-a-deeper-network", pair("transformer.transformer_blocks.30.attn.to_q"), "transformer_blocks.30"),
    lora("partly", pair(f"transformer.{Q}", **{"transformer.x.lora_A.weight": A, "transformer.x.lora_B.weight": B}),
         "1 of 2 adapted layers", "transformer.x"),
    lora("half-a-pair", save({f"transformer.{Q}.lora_A.weight": A}), "lack one of their matrices"),
    lora("left-over", pair(f"transformer.{Q}", **{"step": torch.ones(1)}), "1 of 3 tensors are no part", "step"),
    lora("wider", pair(f"transformer.{Q}", down=torch.ones(2, 32)), "2 x 32", "rank x 16"),
    lora("ranks-differ", pair(f"transformer.{Q}", up=torch.ones(16, 4)), "16 x 4"),
    lora("one-number", pair(f"transformer.{Q}", up=torch.ones(1)), "another model"),
    lora("rank-0", pair(f"transformer.{Q}", down=torch.ones(0, 16), up=torch.ones(16, 0)), "another model"),
    lora("half-a-loha", save({f"lora_unet_{Q.replace('.', '_')}.hada_w1_a": B}), "lack one of their matrices"),
    lora("half-a-lokr", save({f"transformer.{Q}.lokr_w1": B}), "lack one of their matrices"),
    lora("lokr-of-another-width", save({f"transformer.{Q}.lokr_w1": torch.ones(4, 4),
                                        f"transformer.{Q}.lokr_w2": torch.ones(4, 5)}), "layer of 16 x 16"),
    Case("lora-dora", GENERATE + "l.safetensors", succeeds=True, given={"l.safetensors": pair(
        f"transformer.{Q}", **{f"transformer.{Q}.lora_magnitude_vector": torch.ones(16)})}),
    lora("dora-by-columns", pair(f"transformer.{Q}", **{f"transformer.{Q}.dora_scale": torch.ones(1, 16)}),
         "by columns is not supported"),
    lora("tucker", save({f"transformer.{Q}.hada_t1": torch.ones(2, 2, 3, 3)}), "tucker", "not supported"),
    lora("whole-differences", save({f"diffusion_model.{Q}.diff": torch.ones(16, 16)}), "differences"),
    lora("a-checkpoint", tensors(**{"model__diffusion_model__x": B}), "no part of a lora"),
    Case("lora-pickled", GENERATE + "l.bin", ("only .safetensors", "pickled"), given={"l.bin": b"\x80\x02."}),
    Case("lora-ckpt", GENERATE + "l.ckpt", ("only .safetensors",), given={"l.ckpt": b"PK"}),
    Case("lora-folder-empty", GENERATE + "l", ("holds no .safetensors",), given={"l/README.md": "x"}),
    Case("lora-folder-pickled", GENERATE + "l", ("pickled",), given={"l/adapter_model.bin": "x"}),
    Case("lora-folder-of-two", GENERATE + "l", ("several files", "a.safetensors"),
         given={"l/a.safetensors": GOOD, "l/b.safetensors": GOOD}),
    Case("lora-folder-above", GENERATE + "l", ("holds no weights itself", "l/lora"),
         given={"l/lora/adapter_model.safetensors": GOOD, "l/lora/adapter_config.json": json.dumps(ADAPTER)}),
    Case("lora-unfinished-run", GENERATE + "run", ("has not finished",), given={"run/config.yaml": "model: {}\n"}),
    Case("lora-checkpoint-of-a-run", GENERATE + "c", ("checkpoint of a run",),
         given={"c/state.json": "{}", "c/trainable.safetensors": GOOD}),
    Case("lora-a-pipeline", GENERATE + "{sdxl}", ("is a whole model", "as the model")),
    Case("lora-two-experts", GENERATE + "l", ("transformer_2",),
         given={"l/pytorch_lora_weights.safetensors": GOOD, "l/transformer_2/pytorch_lora_weights.safetensors": GOOD}),
    Case("lora-folder-of-one", GENERATE + "l", succeeds=True, given={"l/mine.safetensors": GOOD},
         writes=("out/00000.png",)),
    Case("lora-with-alpha", GENERATE + "l.safetensors", succeeds=True, given={"l.safetensors": pair(
        f"lora_transformer_{Q.replace('.', '_')}", ends=("lora_down.weight", "lora_up.weight"),
        **{f"lora_transformer_{Q.replace('.', '_')}.alpha": torch.tensor(1.0)})}),
    adapter("as-peft-saves-it", ADAPTER, succeeds=True),
    adapter("without-settings", None, "adapter_config.json", "no such file"),
    adapter("settings-cut", '{"peft_type": "LO', "not readable as json"),
    adapter("loha", ADAPTER | {"peft_type": "LOHA"}, "settings are those of a loha"),
    adapter("dora", ADAPTER | {"use_dora": True}, "settings are those of a dora"),
    adapter("oft", ADAPTER | {"peft_type": "OFT"}, "oft", "not supported"),
    adapter("pissa", ADAPTER | {"init_lora_weights": "pissa"}, "pissa"),
    adapter("alpha-in-words", ADAPTER | {"lora_alpha": "twice"}, "lora_alpha"),
    adapter("alpha-0", ADAPTER | {"lora_alpha": 0}, "lora_alpha"),
    trained_on("start-missing", "model.lora.start=other", "model.lora.start", "lora other", "no such file"),
    trained_on("start-and-rank", "model.lora.start=l.safetensors model.lora.rank=8", "model.lora.rank 8", "has rank 2",
               "set model.lora.rank=2"),
    trained_on("start-and-targets", "model.lora.start=l.safetensors model.lora.targets=[to_q]", "model.lora.targets"),
    trained_on("start-of-zeros", "model.lora.start=l.safetensors", "changes nothing",
               content=pair(f"transformer.{Q}", up=torch.zeros(16, 2))),
    trained_on("start-of-another-family", "model.lora.start=l.safetensors", "model.lora.start", "1 of 1", "diffusion",
               content=pair("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")),
    trained_on("start-of-other-ranks", "model.lora.start=l.safetensors", "16 x 4",
               content=pair(f"transformer.{Q}", up=torch.ones(16, 4))),
    trained_on("held-of-another-width", "'model.loras=[{path: l.safetensors}]'", "model.loras", "2 x 32",
               content=pair(f"transformer.{Q}", down=torch.ones(2, 32))),
    trained_on("held-below-a-dora", "'model.loras=[{path: l.safetensors}]' model.lora.kind=dora", "one file cannot"),
    trained_on("start-of-all-weights", "model.lora.start=l.safetensors model.tuning=full", "model.loras"),
    trained_on("pattern-of-no-layer", "'model.lora.rank_pattern={to_kk: 4}'", "rank_pattern to_kk", "'to_k'"),
    trained_on("unknown-kind", "model.lora.kind=lorah", "model.lora.kind", "dora"),
    model("pickled", "m.ckpt", {"m.ckpt": b"PK\x03\x04"}, "pickled"),
    model("gguf", "m.gguf", {"m.gguf": b"GGUF"}, "cannot be read as gguf"),
    model("onnx", "m.onnx", {"m.onnx": b"x"}, "onnx"), model("zip", "m.zip", {"m.zip": b"PK"}, "unpack"),
    model("adapter-folder", "m", {"m/adapter_config.json": "{}", "m/adapter_model.safetensors": GOOD}, "is a lora"),
    model("run", "m", {"m/config.yaml": "model: {}", "m/export/README.md": "x"}, "is a run"),
    model("one-part", "m", {"m/config.json": '{"_class_name": "UNet2DConditionModel"}'}, "unet2dconditionmodel"),
    model("folder-of-files", "m", {"m/a.safetensors": GOOD}, "no model_index.json", "a.safetensors"),
    model("index-cut", "m", {"m/model_index.json": '{"_class_name": '}, "not readable as json"),
    model("unknown-pipeline", "m", {"m/model_index.json": '{"_class_name": "AudioLDMPipeline"}'}, "audioldmpipeline",
          "not supported"),
    Case("reward-without-tokenizer", "score images -r clip:reward --out s.parquet", ("tokenizer.json", "reward"),
         given=tiny_clip_without("tokenizer.json")),
    Case("reward-without-tokenizer-settings", "score images -r clip:reward --out s.parquet",
         ("tokenizer_config.json",), given=tiny_clip_without("tokenizer_config.json")),
    Case("reward-without-weights", "score images -r clip:reward --out s.parquet", ("no .safetensors weights",),
         given=tiny_clip_without("open_clip_model.safetensors")),
    Case("reward-whole", "score images -r clip:reward --out s.parquet", succeeds=True, given=tiny_clip_without()),
]
