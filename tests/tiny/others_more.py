"""Small pipelines of further classes that no recipe names, of 2025 and 2026."""

from pathlib import Path

import torch

from tests.tiny.images_flux import flux2_vae
from tests.tiny.parts import Guard, chat, flow_euler, image_vae, lively, qwen25_vl, qwen_processor
from tests.tiny.texts import (
    chat_tokenizer,
    clip_encoder,
    clip_tokenizer,
    mistral3,
    qwen3,
    qwen3_processor,
    qwen3_vl,
    qwen3_vl_writer,
    t5,
    template_tokenizer,
    umt5,
    word_tokenizer,
)
from tests.tiny.videos import wan_vae


def _cosmos_transformer(**options):
    from diffusers import CosmosTransformer3DModel

    return lively(CosmosTransformer3DModel(**({
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
        "mlp_ratio": 2, "text_embed_dim": 32, "adaln_lora_dim": 4, "max_size": (4, 32, 32),
        "patch_size": (1, 2, 2)} | options)))


def _save_unguarded(pipeline, folder: Path) -> Path:
    """Guards cannot be saved; loading must be given one: see LOADS."""
    pipeline.register_modules(safety_checker=None)
    pipeline.save_pretrained(folder)
    return folder


def build_cosmos1(folder: Path) -> Path:
    """A diffusion with noise of any size (EDM): its prediction is neither noise nor velocity."""
    from diffusers import AutoencoderKLCosmos, CosmosTextToWorldPipeline, EDMEulerScheduler

    torch.manual_seed(70)
    vae = AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decode_block_out_channels=(8,) * 4,
        attention_resolutions=(8,), resolution=64, num_layers=1, spatial_compression_ratio=4,
        temporal_compression_ratio=4, latents_mean=[0.1, -0.2, 0.3, 0.05] * 4, latents_std=[1.5, 0.5, 1.0, 2.0] * 4)
    return _save_unguarded(CosmosTextToWorldPipeline(
        text_encoder=t5(), tokenizer=word_tokenizer(), vae=vae, safety_checker=Guard(),
        transformer=_cosmos_transformer(rope_scale=(2, 1, 1)),
        scheduler=EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras")), folder)


def build_cosmos2_image(folder: Path) -> Path:
    """As the first, by a scheduler of flows."""
    from diffusers import Cosmos2TextToImagePipeline

    torch.manual_seed(71)
    return _save_unguarded(Cosmos2TextToImagePipeline(
        text_encoder=t5(), tokenizer=word_tokenizer(), vae=wan_vae(), safety_checker=Guard(),
        transformer=_cosmos_transformer(rope_scale=(1, 1, 1), extra_pos_embed_type=None),
        scheduler=flow_euler(use_karras_sigmas=True)), folder)


def build_ovis(folder: Path) -> Path:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel

    torch.manual_seed(72)
    transformer = lively(OvisImageTransformer2DModel(
        patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8)))
    pipeline = OvisImagePipeline(
        scheduler=flow_euler(use_dynamic_shifting=True, shift=3.0),
        vae=image_vae(scaling_factor=1.5, shift_factor=0.06), text_encoder=qwen3().model,
        tokenizer=chat_tokenizer(), transformer=transformer)
    header = template_tokenizer(pipeline.system_prompt, pipeline.user_prompt_begin_id)
    pipeline.register_modules(tokenizer=chat(header))
    pipeline.save_pretrained(folder)
    return folder


def build_ernie(folder: Path) -> Path:
    """Without the model that rewrites prompts. Prompts are padded to the longest of the batch and its negatives."""
    from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel

    torch.manual_seed(73)
    transformer = lively(ErnieImageTransformer2DModel(
        hidden_size=24, num_attention_heads=2, num_layers=2, ffn_hidden_size=32, in_channels=16, out_channels=16,
        text_in_dim=16, rope_axes_dim=(4, 4, 4)))
    ErnieImagePipeline(
        transformer=transformer, vae=flux2_vae(), text_encoder=mistral3(2, 16).model, tokenizer=word_tokenizer(),
        scheduler=flow_euler(shift=3.0)).save_pretrained(folder)
    return folder


def build_nucleus(folder: Path) -> Path:
    """Experts per token; negated, and guided predictions keep the norm of the wanted one."""
    from diffusers import AutoencoderKLQwenImage, NucleusMoEImagePipeline, NucleusMoEImageTransformer2DModel
    from diffusers.pipelines.nucleusmoe_image.pipeline_nucleusmoe_image import DEFAULT_SYSTEM_PROMPT

    torch.manual_seed(74)
    transformer = lively(NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, joint_attention_dim=16, axes_dims_rope=(4, 6, 6), num_experts=4,
        moe_intermediate_dim=32, capacity_factors=2.0, dense_moe_strategy="all_moe"),
        "transformer_blocks")  # its experts are not initialised by the class
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
                                 latents_mean=[0.1, -0.2, 0.3, 0.05], latents_std=[1.5, 0.5, 1.2, 2.0])
    NucleusMoEImagePipeline(
        transformer=transformer, scheduler=flow_euler(use_dynamic_shifting=True), vae=vae,
        text_encoder=qwen3_vl_writer(8),
        processor=qwen3_processor(chat_tokenizer(DEFAULT_SYSTEM_PROMPT))).save_pretrained(folder)
    return folder


def build_ideogram4(folder: Path) -> Path:
    """Guided by a second transformer that sees no words; times run backwards; words and image are one sequence."""
    from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel

    torch.manual_seed(75)

    def transformer():
        return lively(Ideogram4Transformer2DModel(
            in_channels=16, num_layers=2, attention_head_dim=12, num_attention_heads=2, intermediate_size=32,
            adaln_dim=8, llm_features_dim=13 * 16, mrope_section=(2, 2, 2)))

    Ideogram4Pipeline(
        scheduler=flow_euler(), vae=flux2_vae(), text_encoder=qwen3_vl(36), tokenizer=chat_tokenizer(),
        transformer=transformer(), unconditional_transformer=transformer()).save_pretrained(folder)
    return folder


def build_bria_fibo(folder: Path) -> Path:
    """Every layer of the text encoder enters a block of the transformer. No negative prompt is the token 128000."""
    from diffusers import BriaFiboPipeline, BriaFiboTransformer2DModel
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    torch.manual_seed(76)
    transformer = lively(BriaFiboTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, axes_dims_rope=[4, 4, 8], text_encoder_dim=32))
    encoder = SmolLM3ForCausalLM(SmolLM3Config(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=1, initializer_range=0.2))
    BriaFiboPipeline(
        transformer=transformer, scheduler=flow_euler(use_dynamic_shifting=True, shift=3.0), vae=wan_vae(),
        text_encoder=encoder, tokenizer=word_tokenizer()).save_pretrained(folder)
    return folder


def build_anyflow(folder: Path) -> Path:
    """Few steps: its network also sees the time it goes to."""
    from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler

    torch.manual_seed(77)
    transformer = lively(AnyFlowTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=1024))
    AnyFlowPipeline(
        tokenizer=word_tokenizer(), text_encoder=umt5(), transformer=transformer, vae=wan_vae(),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0)).save_pretrained(folder)
    return folder


def build_helios(folder: Path) -> Path:
    """Long videos chunk by chunk, each after the memory of those before."""
    from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

    torch.manual_seed(78)
    transformer = lively(HeliosTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4)))
    HeliosPipeline(
        tokenizer=word_tokenizer(), text_encoder=umt5(), vae=wan_vae(), scheduler=HeliosScheduler(stages=1),
        transformer=transformer).save_pretrained(folder)
    return folder


def build_motif_video(folder: Path) -> Path:
    """Guided by an object of the pipeline."""
    from diffusers import ClassifierFreeGuidance, MotifVideoPipeline, MotifVideoTransformer3DModel
    from transformers import T5Gemma2Encoder, T5Gemma2EncoderConfig

    torch.manual_seed(79)
    transformer = lively(MotifVideoTransformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_decoder_layers=1, mlp_ratio=2.0, patch_size=2, text_embed_dim=32, rope_axes_dim=(4, 4, 4)))
    encoder = T5Gemma2Encoder(T5Gemma2EncoderConfig(
        text_config={"vocab_size": 200, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2,
                     "dropout_rate": 0.0},
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                       "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4))
    MotifVideoPipeline(
        scheduler=flow_euler(shift=5.0), vae=wan_vae(), text_encoder=encoder, tokenizer=word_tokenizer(),
        transformer=transformer, guider=ClassifierFreeGuidance(guidance_scale=6.0)).save_pretrained(folder)
    return folder


def build_kandinsky6(folder: Path) -> Path:
    """Video and sound from one network; the sound has a copy of the scheduler."""
    from diffusers import AutoencoderKLHunyuanVideo, Kandinsky6TI2VAPipeline, Kandinsky6Transformer3DModel
    from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioVAE
    from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder
    from diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va import _PROMPT_TEMPLATE, _QWEN_CROP_START
    from transformers import CLIPTextModel

    torch.manual_seed(90)
    transformer = lively(Kandinsky6Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16, model_dim=16, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=(2, 2, 4), visual_cond=True, in_audio_dim=4,
        out_audio_dim=4))
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        mid_block_add_attention=False, scaling_factor=0.6)
    sound = MMAudioVAE(mel_bins=8, latent_channels=4, hidden_channels=8, channel_multipliers=(1, 1, 1),
                       layers_per_block=1, sample_rate=4000, n_fft=64, hop_length=32)
    vocoder = MMAudioVocoder(num_mels=8, upsample_initial_channel=8, upsample_rates=(2, 2),
                             upsample_kernel_sizes=(4, 4), resblock_kernel_sizes=(3,),
                             resblock_dilation_sizes=((1, 3, 5),))
    tokenizer = template_tokenizer(_PROMPT_TEMPLATE, _QWEN_CROP_START)
    Kandinsky6TI2VAPipeline(
        transformer=transformer, vae=vae, text_encoder=qwen25_vl(), tokenizer=qwen_processor(chat(tokenizer)),
        text_encoder_2=clip_encoder(CLIPTextModel, clip_tokenizer(), length=77), tokenizer_2=clip_tokenizer(),
        scheduler=flow_euler(shift=5.0), audio_vae=sound, vocoder=vocoder).save_pretrained(folder)
    return folder


def build_bria_fibo2(folder: Path) -> Path:
    """Without source images: an edit takes `image` beside the prompt. Prompts may be JSON."""
    from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel

    torch.manual_seed(91)
    transformer = lively(BriaFibo2Transformer2DModel(
        in_channels=4, patch_size=2, dim=24, n_layers=6, n_refiner_layers=1, n_heads=2, cap_feat_dim=48,
        injection_layer_ids=(1, 2, 3, 4, 5), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8,
        gist_step=2, gist_min_text_len=8, gist_max_text_len=64, axes_dims=(4, 4, 4), axes_lens=(256, 64, 64)))
    BriaFibo2Pipeline(
        transformer=transformer, scheduler=flow_euler(use_dynamic_shifting=True), vae=flux2_vae(),
        text_encoder=qwen3_vl_writer(36), processor=qwen3_processor(chat_tokenizer())).save_pretrained(folder)
    return folder


def build_anyflow_far(folder: Path) -> Path:
    """As AnyFlow, chunk after chunk."""
    from diffusers import AnyFlowFARPipeline, AnyFlowFARTransformer3DModel, FlowMapEulerDiscreteScheduler

    torch.manual_seed(92)
    transformer = lively(AnyFlowFARTransformer3DModel(
        patch_size=(1, 2, 2), compressed_patch_size=(1, 4, 4), num_attention_heads=2, attention_head_dim=12,
        in_channels=4, out_channels=4, text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=1024,
        chunk_partition=(1, 2)))
    AnyFlowFARPipeline(
        tokenizer=word_tokenizer(), text_encoder=umt5(), transformer=transformer, vae=wan_vae(),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0)).save_pretrained(folder)
    return folder


def build_cosmos2_video(folder: Path) -> Path:
    """From an image, which stands in the first latent frame beside a mask."""
    from diffusers import Cosmos2VideoToWorldPipeline

    torch.manual_seed(93)
    return _save_unguarded(Cosmos2VideoToWorldPipeline(
        text_encoder=t5(), tokenizer=word_tokenizer(), vae=wan_vae(), safety_checker=Guard(),
        transformer=_cosmos_transformer(rope_scale=(1, 1, 1), extra_pos_embed_type=None, in_channels=5),
        scheduler=flow_euler(use_karras_sigmas=True)), folder)


def build_stable_audio(folder: Path) -> Path:
    """To be refused: sound."""
    from diffusers import (
        AutoencoderOobleck,
        EDMDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )

    torch.manual_seed(94)
    vae = AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3,
        audio_channels=2, channel_multiples=[2, 4], sampling_rate=4)
    transformer = lively(StableAudioDiTModel(
        sample_size=4, in_channels=3, num_layers=2, attention_head_dim=4, num_attention_heads=2,
        num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4))
    StableAudioPipeline(
        vae=vae, text_encoder=t5(), tokenizer=word_tokenizer(), transformer=transformer,
        projection_model=StableAudioProjectionModel(32, 4, 0, 32),
        scheduler=EDMDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0,
            sigma_schedule="exponential")).save_pretrained(folder)
    return folder


def build_cascade_prior(folder: Path) -> Path:
    """To be refused: the first of two models, which makes embeddings of images for the second."""
    from diffusers import DDPMWuerstchenScheduler, StableCascadePriorPipeline, StableCascadeUNet
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(95)
    tokenizer = clip_tokenizer()
    prior = lively(StableCascadeUNet(
        in_channels=4, out_channels=4, conditioning_dim=16, block_out_channels=(16, 16), num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), clip_text_in_channels=16,
        clip_text_pooled_in_channels=16, clip_image_in_channels=16, switch_level=(False,)))
    StableCascadePriorPipeline(
        tokenizer=tokenizer, text_encoder=clip_encoder(CLIPTextModelWithProjection, tokenizer), prior=prior,
        scheduler=DDPMWuerstchenScheduler()).save_pretrained(folder)
    return folder
