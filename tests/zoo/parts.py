"""Tiny components that many pipelines share, all made by code: tokenizers, text and image encoders, VAEs, inputs."""

from __future__ import annotations

import inspect
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

PROMPT = "a red circle on white paper"
NEGATIVE = "blurry"
_TRANSFORMERS_4 = version("transformers").startswith("4.")  # its tokenizers are made from files
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"-_/()[]{}<>|\\*#=+"


def assemble(class_name: str, parts: dict[str, Any], **more: Any) -> Any:
    """Builds the pipeline ``class_name`` from the entries of ``parts`` that its constructor asks for.

    A function among the parts is called to make the component; what the constructor requires and the parts lack is
    ``None``. Entries of ``more`` replace those of ``parts``.
    """
    import diffusers

    pipeline_class = getattr(diffusers, class_name)
    available = {**parts, **more}
    arguments = {}
    for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name in available:
            value = available[name]
            arguments[name] = value() if isinstance(value, FunctionType) else value
        elif parameter.default is parameter.empty:
            arguments[name] = None
    return pipeline_class(**arguments)


def scheduler(class_name: str, **config: Any) -> Any:
    """A scheduler of diffusers by class name."""
    import diffusers

    return getattr(diffusers, class_name)(**config)


def model(class_name: str, **config: Any) -> Any:
    """A model of diffusers by class name."""
    import diffusers

    return getattr(diffusers, class_name)(**config)


def drop(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """``arguments`` without ``names``."""
    return {name: value for name, value in arguments.items() if name not in names}


# Inputs ----------------------------------------------------------------------------------------------------------


def generator() -> Any:
    """A seeded CPU generator."""
    import torch

    return torch.Generator("cpu").manual_seed(0)


def image(size: int = 32, width: int | None = None) -> Any:
    """A PIL image of random pixels, ``size`` high and ``width`` (or ``size``) wide."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (size, width or size, 3), dtype=np.uint8)
    return Image.fromarray(pixels, "RGB")


def mask(size: int = 32) -> Any:
    """A PIL mask whose left half is white."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[:, : size // 2] = 255
    return Image.fromarray(pixels, "L")


def video(frames: int = 5, size: int = 32) -> list[Any]:
    """A list of PIL frames."""
    return [image(size) for _ in range(frames)]


# Tokenizers ------------------------------------------------------------------------------------------------------


def byte_vocabulary(*special: str, suffix: str = "") -> dict[str, int]:
    """The special tokens, then the 256 byte symbols of byte-level BPE, then the same with ``suffix``."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*special, *alphabet, *([a + suffix for a in alphabet] if suffix else [])]
    return {token: index for index, token in enumerate(tokens)}


def clip_tokenizer(length: int = 77, **more: Any) -> Any:
    """CLIP's tokenizer over single bytes: 514 tokens."""
    from transformers import CLIPTokenizer

    vocabulary = byte_vocabulary("<|startoftext|>", "<|endoftext|>", suffix="</w>")
    if _TRANSFORMERS_4:
        with tempfile.TemporaryDirectory() as folder:
            files = {"vocab_file": Path(folder) / "vocab.json", "merges_file": Path(folder) / "merges.txt"}
            files["vocab_file"].write_text(json.dumps(vocabulary))
            files["merges_file"].write_text("#version: 0.2\n")
            return CLIPTokenizer(**{name: str(file) for name, file in files.items()}, model_max_length=length, **more)
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length, **more)


def t5_tokenizer(length: int = 512) -> Any:
    """T5's tokenizer over single letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [
        ("▁", -2.0),
        *((letter, -3.0) for letter in LETTERS),
        *((letter.upper(), -3.0) for letter in LETTERS[:26]),
    ]
    if _TRANSFORMERS_4:
        return _t5_tokenizer_of_transformers_4(special + pieces, length)
    return T5Tokenizer(vocab=special + pieces, extra_ids=0, model_max_length=length)


def _t5_tokenizer_of_transformers_4(vocabulary: list[tuple[str, float]], length: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=length)


QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<|vision_pad|>", "<think>", "</think>", "<|object_ref_start|>", "<|object_ref_end|>",
)  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer(length: int = 1024) -> Any:
    """Qwen's byte-level tokenizer with its chat tokens."""
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(vocab=byte_vocabulary(*QWEN_SPECIAL), merges=[], model_max_length=length)
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_SPECIAL[1:])})
    tokenizer.chat_template = CHAT
    return tokenizer


def _sentence_piece_vocabulary(*special: str) -> dict[str, int]:
    letters = LETTERS + LETTERS[:26].upper() + "▁\n"
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def gemma_tokenizer(length: int = 512) -> Any:
    """Gemma's tokenizer over single letters."""
    from transformers import GemmaTokenizer

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>")
    tokenizer = GemmaTokenizer(vocab=_sentence_piece_vocabulary(*special), merges=[], model_max_length=length)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[5:])})
    tokenizer.chat_template = CHAT
    return tokenizer


def llama_tokenizer(length: int = 512) -> Any:
    """Llama's tokenizer over single letters, padding with the end token."""
    from transformers import LlamaTokenizer

    special = ("<unk>", "<s>", "</s>", "<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = LlamaTokenizer(
        vocab=_sentence_piece_vocabulary(*special), merges=[], model_max_length=length, pad_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[3:])})
    tokenizer.chat_template = CHAT
    return tokenizer


def bert_tokenizer(length: int = 77) -> Any:
    """BERT's tokenizer over single letters."""
    from transformers import BertTokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    return BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, model_max_length=length)


def gpt2_tokenizer(length: int = 77) -> Any:
    """GPT-2's byte-level tokenizer."""
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer(vocab=byte_vocabulary("<|endoftext|>"), merges=[], model_max_length=length)


def roberta_tokenizer(length: int = 77) -> Any:
    """RoBERTa's byte-level tokenizer."""
    from transformers import RobertaTokenizer

    vocabulary = byte_vocabulary("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


# Text encoders ---------------------------------------------------------------------------------------------------


def clip_text(hidden: int = 32, projection: int | None = None, layers: int = 2, seed: int = 0, **more: Any) -> Any:
    """A CLIP text encoder; with ``projection`` set, one with a projected pooled output of that size."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=hidden, intermediate_size=hidden + 5, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=77, projection_dim=projection or hidden,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, **more,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5(hidden: int = 32, layers: int = 2, **more: Any) -> Any:
    """A T5 encoder."""
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    return T5EncoderModel(
        T5Config(
            vocab_size=128, d_model=hidden, d_kv=8, d_ff=37, num_layers=layers, num_heads=4,
            feed_forward_proj="gated-gelu", **more,
        )
    )  # fmt: skip


def umt5(hidden: int = 32, layers: int = 2) -> Any:
    """A UMT5 encoder: T5 with a position bias in each layer."""
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    return UMT5EncoderModel(
        UMT5Config(vocab_size=128, d_model=hidden, d_kv=8, d_ff=37, num_layers=layers, num_heads=4)
    )


def gemma2(hidden: int = 32) -> Any:
    """A Gemma 2 decoder with grouped queries and a sliding window."""
    import torch
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    return Gemma2Model(
        Gemma2Config(
            vocab_size=400, hidden_size=hidden, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8,
        )
    )  # fmt: skip


def gemma(hidden: int = 32) -> Any:
    """A Gemma decoder with grouped queries."""
    import torch
    from transformers import GemmaConfig, GemmaModel

    torch.manual_seed(0)
    return GemmaModel(
        GemmaConfig(
            vocab_size=400, hidden_size=hidden, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8,
        )
    )  # fmt: skip


def llama_config(hidden: int = 32, layers: int = 2) -> Any:
    """The configuration of a Llama decoder with grouped queries."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=400, hidden_size=hidden, intermediate_size=37, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def bert(hidden: int = 32) -> Any:
    """A BERT encoder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=200, hidden_size=hidden, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=512,
        )
    )  # fmt: skip


# Image encoders --------------------------------------------------------------------------------------------------


def clip_vision(hidden: int = 32, projection: int | None = 32, size: int = 32, layers: int = 2) -> Any:
    """A CLIP image encoder for ``size`` x ``size`` pixels; without a projection if ``projection`` is None."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=hidden, intermediate_size=37, num_hidden_layers=layers, num_attention_heads=4, image_size=size,
        patch_size=8, projection_dim=projection or hidden,
    )  # fmt: skip
    return (CLIPVisionModelWithProjection if projection else CLIPVisionModel)(config)


def clip_images(size: int = 32) -> Any:
    """The image processor of ``clip_vision``."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def siglip_vision(hidden: int = 32, size: int = 32) -> Any:
    """A SigLIP image encoder, whose pooling head uses ``nn.MultiheadAttention``."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=hidden, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=size,
            patch_size=8,
        )
    )  # fmt: skip


def siglip_images(size: int = 32) -> Any:
    """The image processor of ``siglip_vision``."""
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": size, "width": size})


# VAEs ------------------------------------------------------------------------------------------------------------


def vae(latents: int = 4, channels: tuple[int, ...] = (8, 16), **more: Any) -> Any:
    """An image VAE that scales by 2 for each further entry of ``channels``."""
    import torch

    torch.manual_seed(0)
    config = {
        "in_channels": 3, "out_channels": 3, "block_out_channels": channels, "latent_channels": latents,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels), "norm_num_groups": 4, "sample_size": 32,
    }  # fmt: skip
    return model("AutoencoderKL", **{**config, **more})


def tiny_vae() -> Any:
    """The VAE without attention or norms that previews use."""
    return model(
        "AutoencoderTiny", in_channels=3, out_channels=3, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip


def safety_checker() -> Any:
    """Stable Diffusion's safety checker over a small CLIP image encoder."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8
    )
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=16))


# Vision-language encoders ----------------------------------------------------------------------------------------


def chat_processor(class_name: str, image_processor: Any, tokenizer: Any, **more: Any) -> Any:
    """A vision-language processor of transformers, without its video half.

    The real class insists on a video processor, which needs torchvision; no pipeline here feeds it a video.
    """
    import transformers

    base = getattr(transformers, class_name)
    without_video = type(
        class_name, (base,), {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    )
    return without_video(
        image_processor=image_processor, tokenizer=tokenizer, video_processor=None,
        chat_template=tokenizer.chat_template, **more,
    )  # fmt: skip


def qwen_images(patch: int = 4) -> Any:
    """Qwen 2 VL's image processor for patches of ``patch`` pixels, at most 16 x 16 pixels."""
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(
        patch_size=patch, temporal_patch_size=2, merge_size=2, min_pixels=64, max_pixels=256,
        size={"shortest_edge": 64, "longest_edge": 256},
    )  # fmt: skip


def qwen2_processor() -> Any:
    """Qwen 2 VL's processor."""
    return chat_processor("Qwen2VLProcessor", qwen_images(), qwen_tokenizer())


def qwen_ids() -> dict[str, int]:
    """The ids of the tokens that stand for images and videos."""
    ids = {token: index for index, token in enumerate(QWEN_SPECIAL)}
    return {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip


def qwen2_5_vl_config(hidden: int = 32) -> Any:
    """Qwen 2.5 VL's configuration: grouped queries, three-part rotary positions, windowed vision attention."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": hidden,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "type": "default",
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 1e6,
            },
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        **qwen_ids(),
    )


def qwen2_5_vl(hidden: int = 32) -> Any:
    """A Qwen 2.5 VL model."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(hidden))


def qwen3_vl_config(hidden: int = 32, layers: int = 2) -> Any:
    """Qwen 3 VL's configuration: normalized queries and keys, vision features added in early layers."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": hidden,
            "intermediate_size": 37,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "rope_theta": 1e6,
            },
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **qwen_ids(),
    )


def qwen3_vl(hidden: int = 32, layers: int = 2) -> Any:
    """A Qwen 3 VL model."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(qwen3_vl_config(hidden, layers))


def qwen3_processor() -> Any:
    """Qwen 3 VL's processor."""
    return chat_processor("Qwen3VLProcessor", qwen_images(), qwen_tokenizer())


def qwen3(head: bool = True, layers: int = 3, hidden: int = 32) -> Any:
    """A Qwen 3 decoder with or without a language-model head."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=37,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
    )
    return (Qwen3ForCausalLM if head else Qwen3Model)(config)
