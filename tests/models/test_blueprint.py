"""Building pipelines from configurations alone."""

from __future__ import annotations

import pytest
import torch

from diffmeter.errors import ModelLoadError
from diffmeter.models import blueprint, catalog
from diffmeter.models.sources import build_pipeline_without_weights, entry_blueprint

TINY_UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


def tiny(**changes: object) -> blueprint.Blueprint:
    components = {
        "unet": blueprint.ComponentBlueprint("diffusers", "UNet2DModel", TINY_UNET),
        "scheduler": blueprint.ComponentBlueprint("diffusers", "DDPMScheduler", {"num_train_timesteps": 10}),
        **changes,
    }
    return blueprint.Blueprint("acme/tiny", "DDPMPipeline", components)  # type: ignore[arg-type]


def test_same_seed_gives_the_same_weights_and_leaves_the_random_state() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = blueprint.build(tiny(), device="cpu", seed=1).unet.state_dict()
    assert torch.equal(torch.rand(3), expected)
    again = blueprint.build(tiny(), device="cpu", seed=1).unet.state_dict()
    other = blueprint.build(tiny(), device="cpu", seed=2).unet.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_what_was_asked_for(dtype: torch.dtype) -> None:
    """Also where the published configuration says float16, as SDXL's second text encoder does."""
    pipeline = build_pipeline_without_weights("sdxl", dtype=dtype)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert {parameter.dtype for parameter in getattr(pipeline, name).parameters()} == {dtype}, name


def test_modules_that_need_float32_keep_it() -> None:
    from diffusers import WanTransformer3DModel

    pipeline = build_pipeline_without_weights("wan2.1-1.3b", dtype=torch.bfloat16)
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, parameter in pipeline.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if kept & set(name.split(".")) else torch.bfloat16), name


def test_classes_of_other_packages_are_refused() -> None:
    for library, class_name in (("os", "system"), ("mine", "Thing"), ("diffusers.utils", "logging"), ("", "")):
        part = blueprint.ComponentBlueprint(library, class_name)
        with pytest.raises(ModelLoadError, match=r"code that comes with a model is not run|is neither"):
            blueprint.build(tiny(unet=part))


def test_names_that_a_library_imports_from_elsewhere_are_refused() -> None:
    for library, class_name in (("pipeline_utils", "Path"), ("diffusers", "Any"), ("transformers", "Path")):
        with pytest.raises(ModelLoadError):
            blueprint.component_type(library, class_name, "acme/x", "unet")


def test_class_that_the_library_does_not_have() -> None:
    with pytest.raises(ModelLoadError, match=r"diffusers.NoSuchUNet, which the installed diffusers"):
        blueprint.build(tiny(unet=blueprint.ComponentBlueprint("diffusers", "NoSuchUNet")))


def test_pipeline_class_that_is_none() -> None:
    for name in ("UNet2DModel", "os.system", "NoSuchPipeline"):
        with pytest.raises(ModelLoadError, match="needs the pipeline class"):
            blueprint.build(blueprint.Blueprint("acme/x", name, {}))


def test_renamed_and_pipeline_specific_classes() -> None:
    pipeline = build_pipeline_without_weights("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert type(pipeline.safety_checker).__name__ == "StableDiffusionSafetyChecker"
    older = build_pipeline_without_weights("stabilityai/stable-diffusion-2-1-base")
    # The published index says CLIPFeatureExtractor, which transformers has renamed.
    assert type(older.feature_extractor).__name__.startswith("CLIPImageProcessor")


def test_config_of_a_whole_model_gives_its_part() -> None:
    from transformers import CLIPTextModel

    text = {"hidden_size": 16, "vocab_size": 100, "model_type": "clip_text_model"}
    config = blueprint.model_config(CLIPTextModel, {"model_type": "clip", "text_config": text, "vision_config": {}})
    assert config.hidden_size == 16
    assert config.vocab_size == 100


def test_processor_is_built_without_its_video_half() -> None:
    from diffusers import QwenImageEditPipeline

    files = {
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 14,
            "merge_size": 2,
        },
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
    }
    part = blueprint.ComponentBlueprint("transformers", "Qwen2VLProcessor", files)
    built = blueprint.build(blueprint.Blueprint("acme/edit", "QwenImageEditPipeline", {"processor": part}))
    assert isinstance(built, QwenImageEditPipeline)
    processor = built.processor
    assert type(processor).__name__ == "Qwen2VLProcessor"
    assert processor.image_processor.patch_size == 14
    assert len(processor.tokenizer("a cat").input_ids) == 2


def test_token_count_reaches_the_tokenizers() -> None:
    pipeline = build_pipeline_without_weights("black-forest-labs/FLUX.1-dev", token_count=9)
    assert len(pipeline.tokenizer_2("a cat").input_ids) == 10
    assert len(pipeline.tokenizer("a cat").input_ids) == 11


def test_arguments_of_the_constructor_are_kept() -> None:
    entry = catalog.find("sdxl-refiner")
    assert entry is not None
    pipeline = blueprint.build(entry_blueprint(entry))
    assert pipeline.config["requires_aesthetics_score"] is True
    assert pipeline.config["_name_or_path"] == "stabilityai/stable-diffusion-xl-refiner-1.0"
