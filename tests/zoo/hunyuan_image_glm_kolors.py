"""HunyuanImage, GLM-Image, Kolors, Krea 2, Ideogram 4, OmniGen and others; two that write text by diffusion."""

from __future__ import annotations

import functools
from typing import Any

from .flux2_z_image_bria import flux2_vae, longcat_parts, mistral3, z_parts, z_text, z_transformer
from .parts import (
    LETTERS,
    PROMPT,
    assemble,
    byte_vocabulary,
    chat_processor,
    drop,
    gemma_tokenizer,
    generator,
    image,
    llama_config,
    llama_tokenizer,
    model,
    qwen2_5_vl,
    qwen3_processor,
    qwen3_vl,
    qwen_tokenizer,
    scheduler,
    t5,
    tiny_vae,
    vae,
)  # fmt: skip
from .pixart_sana_lumina import text
from .qwen_image import video_vae
from .registry import add
from .stable_diffusion import ddim, edit, unet
from .stable_diffusion import parts as sd_parts
from .stable_diffusion_3 import flow, flow_vae
from .stable_diffusion_relatives import seen
from .stable_diffusion_xl import parts as xl_parts
from .stable_diffusion_xl import unet as xl_unet


def configured(pipe: Any, **attributes: Any) -> Any:
    """``pipe`` with attributes that its constructor sets to sizes for a full model."""
    for name, value in attributes.items():
        if not hasattr(pipe, name):
            raise AttributeError(f"{type(pipe).__name__} has no {name!r}")
        setattr(pipe, name, value)
    return pipe


# Kolors ----------------------------------------------------------------------------------------------------------


def piece_file(path: Any) -> str:
    """Writes a SentencePiece vocabulary of single letters to ``path``; gives the path."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LETTERS, LETTERS[:26].upper()]), model_prefix=str(path), model_type="char",
        vocab_size=95, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return f"{path}.model"


def chatglm_tokenizer() -> Any:
    """ChatGLM's tokenizer over single letters, padding on the left."""
    import tempfile
    from pathlib import Path

    from diffusers.pipelines.kolors import ChatGLMTokenizer

    with tempfile.TemporaryDirectory() as folder:
        return ChatGLMTokenizer(piece_file(Path(folder) / "letters"))


def chatglm() -> Any:
    """A ChatGLM decoder with grouped queries, its sequence in front of its batch."""
    import torch
    from diffusers.pipelines.kolors import ChatGLMModel
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, RMSNorm

    torch.manual_seed(0)
    made = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2, padded_vocab_size=128, hidden_size=32, ffn_hidden_size=37, kv_channels=8,
            num_attention_heads=4, seq_length=256, multi_query_attention=True, multi_query_group_num=2,
            add_qkv_bias=True, original_rope=True, use_cache=False, return_dict=True,
        ),
        empty_init=False,
    )  # fmt: skip
    for module in made.modules():
        if isinstance(module, RMSNorm):
            torch.nn.init.ones_(module.weight)
    return made


def kolors_parts() -> dict[str, Any]:
    """SDXL's U-Net over a projection of ChatGLM's states."""
    return xl_parts(
        unet=xl_unet(encoder_hid_dim=32, encoder_hid_dim_type="text_proj"), text_encoder=chatglm(),
        tokenizer=chatglm_tokenizer(),
    )  # fmt: skip


add("KolorsPipeline", "Kolors", lambda: assemble("KolorsPipeline", kolors_parts()), lambda p: text(), True)
add("KolorsImg2ImgPipeline", "Kolors", lambda: assemble("KolorsImg2ImgPipeline", kolors_parts()), lambda p: edit())
add(
    "KolorsPAGPipeline", "Kolors",
    lambda: assemble("KolorsPAGPipeline", kolors_parts(), pag_applied_layers="mid"),
    lambda p: text(pag_scale=3.0),
)  # fmt: skip

# HunyuanImage ----------------------------------------------------------------------------------------------------


def byt5_tokenizer(length: int = 128) -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0, model_max_length=length)


def byt5() -> Any:
    """A T5 encoder over bytes."""
    encoder = t5()
    encoder.resize_token_embeddings(384)
    return encoder


def hunyuan_transformer(**more: Any) -> Any:
    config: dict[str, Any] = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
        "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": (1, 1), "guidance_embeds": False,
        "text_embed_dim": 32, "rope_axes_dim": (8, 8),
    }  # fmt: skip
    return model("HunyuanImageTransformer2DModel", **{**config, **more})


def guider(**config: Any) -> Any:
    """Classifier-free guidance that mixes in adaptive projected guidance in later steps."""
    import diffusers

    return diffusers.AdaptiveProjectedMixGuidance(**config)


def hunyuan_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(shift=7.0),
        "text_encoder": qwen2_5_vl,
        "tokenizer": qwen_tokenizer(),
        "guider": guider(adaptive_projected_guidance_start_step=1),
        **more,
    }


def hunyuan_image_parts(**more: Any) -> dict[str, Any]:
    return hunyuan_parts(
        vae=model(
            "AutoencoderKLHunyuanImage", in_channels=3, out_channels=3, latent_channels=4,
            block_out_channels=(32, 32, 32), layers_per_block=1, spatial_compression_ratio=4, sample_size=32,
            scaling_factor=0.75,
        ),
        text_encoder_2=byt5,
        tokenizer_2=byt5_tokenizer(),
        transformer=hunyuan_transformer(text_embed_2_dim=32),
        ocr_guider=guider(adaptive_projected_guidance_start_step=1),
        **more,
    )  # fmt: skip


def hunyuan(class_name: str, made: dict[str, Any], **more: Any) -> Any:
    """The pipeline; it pads every prompt to a length that is an attribute, set short here."""
    return configured(assemble(class_name, made, **more), tokenizer_max_length=48)


def hunyuan_text(**more: Any) -> dict[str, Any]:
    return drop(text(**more), "guidance_scale")


add(
    "HunyuanImagePipeline", "HunyuanImage",
    lambda: hunyuan("HunyuanImagePipeline", hunyuan_image_parts()),
    lambda p: hunyuan_text(), True,
)  # fmt: skip
add(
    "HunyuanImagePipeline[quoted text, distilled]", "HunyuanImage",
    lambda: hunyuan(
        "HunyuanImagePipeline",
        hunyuan_image_parts() | {
            "transformer": hunyuan_transformer(text_embed_2_dim=32, guidance_embeds=True, use_meanflow=True)
        },
        guider=None, ocr_guider=None,
    ),
    lambda p: hunyuan_text(prompt='a sign that says "open"'),
)  # fmt: skip
add(
    "HunyuanImageRefinerPipeline", "HunyuanImage",
    lambda: hunyuan(
        "HunyuanImageRefinerPipeline",
        hunyuan_parts(
            vae=model(
                "AutoencoderKLHunyuanImageRefiner", latent_channels=4, block_out_channels=(8, 8, 16),
                layers_per_block=1, spatial_compression_ratio=4, temporal_compression_ratio=2,
            ),
            transformer=hunyuan_transformer(
                in_channels=16, out_channels=8, patch_size=(1, 1, 1), rope_axes_dim=(4, 4, 8), guidance_embeds=True
            ),
        ),
    ),
    lambda p: hunyuan_text(image=image()), True,
)  # fmt: skip

# Qwen-Image 2.1, Z-Image Omni, LongCat editing -------------------------------------------------------------------


def qwen21_parts() -> dict[str, Any]:
    latents = 4
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": model(
            "AutoencoderKLQwenImage21", base_dim=4, decoder_base_dim=4, z_dim=latents, dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1, latents_mean=[0.0] * latents, latents_std=[1.0] * latents,
        ),
        "text_encoder": qwen3_vl,
        "processor": qwen3_processor,
        "transformer": model(
            "QwenImage21Transformer2DModel", in_channels=latents, out_channels=latents, num_layers=2,
            attention_head_dim=16, num_attention_heads=2, context_in_dim=32, axes_dims_rope=(4, 6, 6),
        ),
    }  # fmt: skip


def qwen21_text(**more: Any) -> dict[str, Any]:
    return drop(text(**{"true_cfg_scale": 2.0, "height": 64, "width": 64, **more}), "guidance_scale")


add(
    "QwenImage21Pipeline", "Qwen-Image", lambda: assemble("QwenImage21Pipeline", qwen21_parts()),
    lambda p: qwen21_text(), True,
)  # fmt: skip
add(
    "QwenImage21Pipeline[images]", "Qwen-Image", lambda: assemble("QwenImage21Pipeline", qwen21_parts()),
    lambda p: qwen21_text(image=[image(), image()], output_resolution=64),
)  # fmt: skip
add(
    "QwenImage21Pipeline[no key-value cache]", "Qwen-Image", lambda: assemble("QwenImage21Pipeline", qwen21_parts()),
    lambda p: qwen21_text(use_kv_cache=False), True,
)  # fmt: skip
add(
    "QwenImage21Pipeline[images, no key-value cache]", "Qwen-Image",
    lambda: assemble("QwenImage21Pipeline", qwen21_parts()),
    lambda p: qwen21_text(image=[image(), image()], output_resolution=64, use_kv_cache=False),
)  # fmt: skip


def siglip2() -> tuple[Any, Any]:
    """A SigLIP 2 image encoder that keeps the aspect ratio, and its image processor."""
    from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

    config = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, num_patches=16, patch_size=8
    )
    return Siglip2VisionModel(config), Siglip2ImageProcessor(patch_size=8, max_num_patches=16)


def omni_parts(**more: Any) -> dict[str, Any]:
    encoder, processor = siglip2()
    return z_parts(
        siglip=encoder, siglip_processor=processor, transformer=z_transformer(siglip_feat_dim=32), **more
    )  # fmt: skip


def bfloat16_vae() -> Any:
    """The pipeline encodes given images in bfloat16, whatever its VAE is in."""
    import torch

    return flow_vae(16).to(torch.bfloat16)


add("ZImageOmniPipeline", "Z-Image", lambda: assemble("ZImageOmniPipeline", omni_parts()), lambda p: z_text(), True)
add(
    "ZImageOmniPipeline[images]", "Z-Image",
    lambda: assemble("ZImageOmniPipeline", omni_parts(vae=bfloat16_vae())),
    lambda p: z_text(image=[image(64), image(64)], width=32),
)  # fmt: skip
# The pipeline scales whatever it edits to a megapixel: a VAE of few channels that scales by 32 keeps that cheap.
add(
    "LongCatImageEditPipeline", "LongCat",
    lambda: configured(
        assemble(
            "LongCatImageEditPipeline",
            longcat_parts() | {"vae": flow_vae(16, channels=(1, 1, 2, 2, 2, 2), norm_num_groups=1)},
        ),
        tokenizer_max_length=48,
    ),
    lambda p: drop(text(image=image()), "height", "width"),
)  # fmt: skip

# OmniGen ---------------------------------------------------------------------------------------------------------


def omnigen_transforms() -> Any:
    """The four of torchvision's transforms that OmniGen's processor makes its image preparation of."""
    import types

    import numpy as np
    import torch

    def normalize(mean: list[float], std: list[float], inplace: bool) -> Any:
        return lambda pixels: (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    return types.SimpleNamespace(
        Compose=lambda steps: lambda picture: functools.reduce(lambda x, step: step(x), steps, picture),
        Lambda=lambda function: function,
        ToTensor=lambda: lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255,
        Normalize=normalize,
    )  # fmt: skip


def omnigen() -> Any:
    """One transformer over text, given images and noise. Its processor wants torchvision only when it is made."""
    from unittest import mock

    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

    parts = {
        "transformer": model(
            "OmniGenTransformer2DModel", in_channels=4, patch_size=2, hidden_size=32, num_attention_heads=4,
            num_key_value_heads=4, intermediate_size=37, num_layers=2, pad_token_id=0, vocab_size=400,
            max_position_embeddings=1024, original_max_position_embeddings=512,
            rope_scaling={"short_factor": [1.0] * 4, "long_factor": [1.0] * 4}, pos_embed_max_size=16,
            time_step_dim=16,
        ),
        "scheduler": flow(), "vae": vae(channels=(4, 4, 4, 4)), "tokenizer": llama_tokenizer(),
    }  # fmt: skip
    with mock.patch.object(processor_omnigen, "transforms", omnigen_transforms(), create=True):
        processor = processor_omnigen.OmniGenMultiModalProcessor
        with mock.patch.object(pipeline_omnigen, "OmniGenMultiModalProcessor", processor, create=True):
            return assemble("OmniGenPipeline", parts)


add("OmniGenPipeline", "OmniGen", omnigen, lambda p: drop(text(), "negative_prompt"), True)
add(
    "OmniGenPipeline[image]", "OmniGen", omnigen,
    lambda p: drop(text(prompt="make <img><|image_1|></img> red", input_images=[image()]), "negative_prompt"),
)  # fmt: skip

# JoyImage --------------------------------------------------------------------------------------------------------


def joy_parts(transformer: str) -> dict[str, Any]:
    """It too scales what it edits to a megapixel: the VAE folds 4 x 4 pixels before it scales by 8."""
    return {
        "scheduler": flow(shift=4.0),
        "vae": video_vae(
            "AutoencoderKLWan", patch_size=4, in_channels=48, out_channels=48, scale_factor_spatial=32
        ),
        "text_encoder": qwen3_vl,
        "tokenizer": qwen_tokenizer(),
        "processor": qwen3_processor,
        "transformer": model(
            transformer, in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=32, mlp_width_ratio=2.0,
            num_layers=2, rope_dim_list=[4, 6, 6],
        ),
    }  # fmt: skip


def joy_text(**more: Any) -> dict[str, Any]:
    return drop(text(**more), "height", "width")


add(
    "JoyImageEditPipeline", "JoyImage",
    lambda: assemble("JoyImageEditPipeline", joy_parts("JoyImageEditTransformer3DModel")),
    lambda p: joy_text(image=image()),
)  # fmt: skip
add(
    "JoyImageEditPlusPipeline", "JoyImage",
    lambda: assemble("JoyImageEditPlusPipeline", joy_parts("JoyImageEditPlusTransformer3DModel")),
    lambda p: joy_text(images=[image()]),
)  # fmt: skip

# Over FLUX.2's VAE: Bria Fibo 2, ERNIE-Image, Ideogram 4 ----------------------------------------------------------


def fibo2() -> Any:
    """A transformer whose text comes through a perceiver and through cross-attention in one layer."""
    parts = {
        "transformer": model(
            "BriaFibo2Transformer2DModel", in_channels=4, patch_size=2, dim=32, n_layers=2, n_refiner_layers=1,
            n_heads=2, cap_feat_dim=64, injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=4,
            max_num_gist_tokens=8, gist_step=4, gist_min_text_len=16, gist_max_text_len=128, axes_dims=(4, 6, 6),
            axes_lens=(256, 64, 64),
        ),
        "scheduler": flow(use_dynamic_shifting=True), "vae": flux2_vae(), "text_encoder": qwen3_vl,
        "processor": qwen3_processor,
    }  # fmt: skip
    return configured(
        assemble("BriaFibo2Pipeline", parts), text_encoder_out_layers=((0, 1), (1, 2)), text_encoder_image_size=32,
        default_sample_size=32,
    )  # fmt: skip


def structured(**more: Any) -> dict[str, Any]:
    return text(**{"prompt": '{"short_description": "a red circle"}', **more})


add("BriaFibo2Pipeline", "Bria", fibo2, lambda p: structured(), True)
add(
    "BriaFibo2Pipeline[image]", "Bria", fibo2,
    lambda p: structured(prompt='{"edit_instruction": "make it red"}', image=image(64)),
)  # fmt: skip


def ernie_parts() -> dict[str, Any]:
    return {
        "transformer": model(
            "ErnieImageTransformer2DModel", hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=40,
            in_channels=16, out_channels=16, text_in_dim=32, rope_axes_dim=(4, 6, 6),
        ),
        "vae": flux2_vae(), "text_encoder": mistral3().model, "tokenizer": qwen_tokenizer(), "scheduler": flow(),
    }  # fmt: skip


add(
    "ErnieImagePipeline", "ERNIE-Image", lambda: assemble("ErnieImagePipeline", ernie_parts()),
    lambda p: text(), True,
)  # fmt: skip


def ideogram_transformer() -> Any:
    return model(
        "Ideogram4Transformer2DModel", in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        intermediate_size=40, adaln_dim=16, llm_features_dim=13 * 16, mrope_section=(4, 2, 2),
    )  # fmt: skip


def ideogram_parts() -> dict[str, Any]:
    """Two transformers, one without text, and the states of 13 of the text encoder's 36 layers."""
    return {
        "scheduler": flow(), "vae": flux2_vae(), "text_encoder": qwen3_vl(16, layers=36).model,
        "tokenizer": qwen_tokenizer(), "transformer": ideogram_transformer(),
        "unconditional_transformer": ideogram_transformer(),
    }  # fmt: skip


add(
    "Ideogram4Pipeline", "Ideogram", lambda: assemble("Ideogram4Pipeline", ideogram_parts()),
    lambda p: drop(
        text(max_sequence_length=64, guidance_schedule=(7.0, 3.0)), "negative_prompt", "guidance_scale"
    ),
    True,
)  # fmt: skip

# Over Qwen-Image's VAE: Krea 2, Nucleus-MoE ----------------------------------------------------------------------

add(
    "Krea2Pipeline", "Krea",
    lambda: assemble(
        "Krea2Pipeline",
        {
            "scheduler": flow(use_dynamic_shifting=True), "vae": video_vae, "text_encoder": qwen3_vl().model,
            "tokenizer": qwen_tokenizer(),
            "transformer": model(
                "Krea2Transformer2DModel", in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=40, timestep_embed_dim=16, text_hidden_dim=32,
                num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=37,
                num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
            ),
        },
        text_encoder_select_layers=(1, 2),
    ),
    lambda p: text(max_sequence_length=32), True,
)  # fmt: skip
add(
    "NucleusMoEImagePipeline", "Nucleus-Image",
    lambda: assemble(
        "NucleusMoEImagePipeline",
        {
            "transformer": model(
                "NucleusMoEImageTransformer2DModel", in_channels=16, out_channels=4, num_layers=2,
                attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1, joint_attention_dim=32,
                axes_dims_rope=(4, 6, 6), mlp_ratio=2.0, dense_moe_strategy="leave_first_block_dense",
                num_experts=4, moe_intermediate_dim=24, capacity_factors=2.0,
            ),
            "scheduler": flow(use_dynamic_shifting=True), "vae": video_vae, "text_encoder": qwen3_vl(layers=3),
            "processor": qwen3_processor,
        },
    ),
    lambda p: text(return_index=-2), True,
)  # fmt: skip

# DreamLite -------------------------------------------------------------------------------------------------------


def dreamlite_parts() -> dict[str, Any]:
    """A U-Net of depthwise convolutions, most of whose stages attend to the text only."""
    return {
        "text_encoder": qwen3_vl, "tokenizer": qwen_tokenizer(), "processor": qwen3_processor, "vae": tiny_vae(),
        "scheduler": flow(use_dynamic_shifting=True),
        "unet": model(
            "DreamLiteUNetModel", sample_size=16,
            down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
            attention_head_dim=2, use_linear_projection=True, ff_mult=2, addition_embed_type="time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=16,
        ),
    }  # fmt: skip


def dreamlite_text(**more: Any) -> dict[str, Any]:
    return text(**{"width": 32, **more})


for _name, _dropped in (("DreamLitePipeline", ()), ("DreamLiteMobilePipeline", ("negative_prompt",))):
    add(
        _name, "DreamLite", lambda name=_name: assemble(name, dreamlite_parts()),
        lambda p, dropped=_dropped: drop(dreamlite_text(), *dropped), True,
    )  # fmt: skip
    add(
        f"{_name}[image]", "DreamLite", lambda name=_name: assemble(name, dreamlite_parts()),
        lambda p, dropped=_dropped: drop(dreamlite_text(image=image()), *dropped),
    )  # fmt: skip

# Intrinsic images ------------------------------------------------------------------------------------------------


def intrinsics() -> Any:
    """Marigold for albedo and material: two maps, so two latents beside that of the image."""
    return assemble(
        "MarigoldIntrinsicsPipeline", sd_parts(unet=unet(12, out_channels=8), scheduler=ddim()),
        prediction_type="intrinsics",
        target_properties={
            "target_names": ["albedo", "material"],
            "albedo": {"prediction_space": "srgb", "up_to_scale": False},
            "material": {"prediction_space": "stack", "names": ["roughness", "metallicity", None]},
        },
    )  # fmt: skip


add("MarigoldIntrinsicsPipeline", "Marigold", intrinsics, lambda p: seen(), True)

# GLM-Image -------------------------------------------------------------------------------------------------------

CODES = 64
GLM_TOKENS = {"image_token": "<|image|>", "grid_bos_token": "<|grid|>", "grid_eos_token": "<|/grid|>"}


def glm_tokenizer() -> Any:
    """A byte-level tokenizer with the marks that GLM-Image puts around sizes and images."""
    from transformers import Qwen2Tokenizer

    marks = ("<|begin|>", *GLM_TOKENS.values())
    tokenizer = Qwen2Tokenizer(
        vocab=byte_vocabulary("<|endoftext|>", *marks), merges=[], bos_token="<|begin|>",
        extra_special_tokens=GLM_TOKENS,
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|image|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    return tokenizer


def glm_vision_language(tokenizer: Any) -> Any:
    """The decoder that writes the codes of an image of 32 x 32 pixels a code, and the encoder of given images."""
    import torch
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    torch.manual_seed(0)
    return GlmImageForConditionalGeneration(
        GlmImageConfig(
            text_config={
                "vocab_size": 300, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
                "vision_vocab_size": CODES + 2, "eos_token_id": None, "pad_token_id": 0,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "image_size": 64,
                "patch_size": 16, "spatial_merge_size": 1,
            },
            vq_config={"embed_dim": 8, "num_embeddings": CODES, "latent_channels": 16},
            image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"), image_start_token_id=CODES,
            image_end_token_id=CODES + 1,
        )
    )  # fmt: skip


def glm_parts() -> dict[str, Any]:
    from transformers import GlmImageImageProcessorPil

    tokenizer = glm_tokenizer()
    images = GlmImageImageProcessorPil(
        patch_size=16, temporal_patch_size=1, merge_size=1, min_pixels=256, max_pixels=1024,
        size={"shortest_edge": 256, "longest_edge": 1024},
    )  # fmt: skip
    processor = chat_processor("GlmImageProcessor", images, tokenizer)
    # The decoder first writes a preview of 16 x 16 codes, however small the image: 2 x 2 keep that cheap.
    processor._get_target_shape = lambda height, width: (height // 32, width // 32, 2, 2)
    return {
        "tokenizer": byt5_tokenizer(),
        "processor": processor,
        "text_encoder": byt5,
        "vision_language_encoder": glm_vision_language(tokenizer),
        "vae": flow_vae(4, channels=(4, 4, 4, 4), latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        "transformer": model(
            "GlmImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=16, num_attention_heads=2, text_embed_dim=32, time_embed_dim=16, condition_dim=8,
            prior_vq_quantizer_codebook_size=CODES + 2,
        ),
        "scheduler": flow(use_dynamic_shifting=True),
    }  # fmt: skip


def glm_text(**more: Any) -> dict[str, Any]:
    return drop(text(**{"width": 32, **more}), "negative_prompt")


add("GlmImagePipeline", "GLM-Image", lambda: assemble("GlmImagePipeline", glm_parts()), lambda p: glm_text(), True)

# Text by diffusion -----------------------------------------------------------------------------------------------


def diffusion_gemma() -> Any:
    """A mixture-of-experts decoder that denoises a canvas of tokens after an encoded prompt."""
    import torch
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    torch.manual_seed(0)
    made = DiffusionGemmaForBlockDiffusion(
        DiffusionGemmaConfig(
            text_config={
                "vocab_size": 400, "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16,
                "max_position_embeddings": 512, "sliding_window": 16, "num_experts": 4, "top_k_experts": 2,
                "moe_intermediate_size": 24, "layer_types": ["sliding_attention", "full_attention"],
            },
            vision_config={
                "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 64,
            },
            canvas_length=8,
        )
    )  # fmt: skip
    made.set_experts_implementation("batched_mm")
    return made


def fixed_length() -> dict[str, Any]:
    """Arguments of a generation that no token and no confidence ends early."""
    return {
        "prompt": PROMPT, "gen_length": 16, "num_inference_steps": 2, "eos_early_stop": False, "output_type": "seq",
        "generator": generator(),
    }  # fmt: skip


add(
    "DiffusionGemmaPipeline", "Text diffusion",
    lambda: assemble(
        "DiffusionGemmaPipeline",
        {
            "model": diffusion_gemma(), "processor": gemma_tokenizer(),
            "scheduler": scheduler("BlockRefinementScheduler", block_length=8),
        },
    ),
    lambda p: {**fixed_length(), "confidence_threshold": None},
)  # fmt: skip


def llada_parts() -> dict[str, Any]:
    """A language model with every position in view; LLaDA 2's own class comes with its weights."""
    from transformers import LlamaForCausalLM

    tokenizer = gemma_tokenizer()
    tokenizer.mask_token = "<mask>"
    return {
        "model": LlamaForCausalLM(llama_config()), "tokenizer": tokenizer,
        "scheduler": scheduler("BlockRefinementScheduler", block_length=8),
    }  # fmt: skip


add(
    "LLaDA2Pipeline", "Text diffusion", lambda: assemble("LLaDA2Pipeline", llada_parts()),
    lambda p: {**fixed_length(), "threshold": 1.0, "editing_threshold": None},
)  # fmt: skip
