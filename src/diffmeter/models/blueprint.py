"""Build a pipeline from its configuration files alone.

A ``Blueprint`` holds what decides a pipeline's compute: its class, and each component's class and configuration. It
comes from the catalog, from a folder, or from the hub (``hub.py``). ``build`` turns it into a pipeline on the meta
device, which takes no memory, or with seeded random weights.

Only classes of diffusers and transformers are used: a component that names any other module is refused, since
building it would run code that came with the model.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import ModelLoadError, one_line

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Names under which old configurations know classes that transformers has since renamed.
_RENAMED_CLASSES = {
    "CLIPFeatureExtractor": "CLIPImageProcessor",
    "ViTFeatureExtractor": "ViTImageProcessor",
    "CLIPTokenizerFast": "CLIPTokenizer",
    "T5TokenizerFast": "T5Tokenizer",
    "BertTokenizerFast": "BertTokenizer",
    "GPT2TokenizerFast": "GPT2Tokenizer",
    "LlamaTokenizerFast": "LlamaTokenizer",
    "GemmaTokenizerFast": "GemmaTokenizer",
    "Qwen2TokenizerFast": "Qwen2Tokenizer",
}

# Keys of a published configuration that say how the weights were stored, not what the model is.
_STORAGE_KEYS = ("torch_dtype", "dtype", "_name_or_path", "quantization_config", "attn_implementation")


@dataclass(frozen=True)
class ComponentBlueprint:
    """One component: the library and class that ``model_index.json`` names, and its published configuration."""

    library: str
    class_name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Where the component's files are, if they are on this machine (used for tokenizers)."""


@dataclass(frozen=True)
class Blueprint:
    """A pipeline without its weights."""

    model_id: str
    pipeline_class: str
    components: Mapping[str, ComponentBlueprint]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's constructor that are no components, such as ``force_zeros_for_empty_prompt``."""
    origin: Mapping[str, Any] | None = None
    """For a single file of weights: what it holds, and what was taken from elsewhere (``single_file.origin``)."""


def pipeline_type(class_name: str, model_id: str) -> Any:
    """The pipeline class of diffusers with this name. Raises ``ModelLoadError`` where there is none."""
    import diffusers

    found = getattr(diffusers, class_name, None) if class_name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ModelLoadError(
            f"{model_id!r} needs the pipeline class {class_name!r}, which is not part of diffusers "
            f"{diffusers.__version__} (code that comes with a model is not run)."
        )
    return found


def component_type(library: str, class_name: str, model_id: str, component: str) -> Any:
    """The class of a component, from diffusers or transformers only.

    ``library`` may also be a folder of ``diffusers.pipelines`` (``stable_diffusion``), as model indexes name classes
    that live beside a pipeline. Raises ``ModelLoadError`` for anything else.
    """
    import diffusers
    import transformers

    home: Any = None
    if library == "diffusers":
        home = diffusers
    elif library == "transformers":
        home = transformers
    elif library.isidentifier():
        home = getattr(diffusers.pipelines, library, None)
    if home is None or not class_name.isidentifier():
        raise ModelLoadError(
            f"component {component!r} of {model_id!r} is {library}.{class_name}, which is neither of diffusers nor of "
            f"transformers (code that comes with a model is not run)."
        )
    for name in (_renamed(class_name, library), class_name):
        found = getattr(home, name, None)
        # A module also holds the names that it imports from elsewhere; none of them is a component.
        if isinstance(found, type) and found.__module__.split(".")[0] in ("diffusers", "transformers"):
            return found
    version = transformers.__version__ if library == "transformers" else diffusers.__version__
    raise ModelLoadError(
        f"component {component!r} of {model_id!r} is {library}.{class_name}, which the installed "
        f"{'transformers' if library == 'transformers' else 'diffusers'} {version} does not have."
    )


def build(
    blueprint: Blueprint,
    *,
    device: str | torch.device = "meta",
    dtype: torch.dtype | None = None,
    token_count: int | None = None,
    seed: int = 0,
) -> Any:
    """Build the pipeline, its models on ``device`` in ``dtype`` (float32 unless given).

    On the meta device nothing is computed and no memory is used. On any other device the weights are what the
    classes' own initialization draws from ``seed``; the random state of the caller is left as it was.
    ``token_count`` is handed to the stand-in tokenizers (``standin_tokenizer.make_standin_tokenizer``).

    Raises ``ModelLoadError`` with one sentence when the pipeline or a component cannot be built.
    """
    import torch

    target = torch.device(device)
    wanted = dtype if dtype is not None else torch.float32
    cls = pipeline_type(blueprint.pipeline_class, blueprint.model_id)
    accepted = inspect.signature(cls.__init__).parameters

    built: dict[str, Any] = {}
    with torch.random.fork_rng(devices=_rng_devices(target)):
        torch.manual_seed(seed)
        # Models first: a stand-in tokenizer is fitted to the text encoder that reads it.
        for name in sorted(blueprint.components, key=lambda key: _reads_text(blueprint.components[key])):
            part = blueprint.components[name]
            if name not in accepted:
                logger.info("%s takes no component %r; it is left out", cls.__name__, name)
                continue
            try:
                built[name] = _build_component(blueprint, name, part, built, target, wanted, token_count)
            except ModelLoadError:
                raise
            except Exception as error:
                raise ModelLoadError(
                    f"component {name!r} ({part.class_name}) of {blueprint.model_id!r} could not be built from its "
                    f"configuration: {one_line(error).rstrip('.')}."
                ) from error
    return _assemble(cls, accepted, built, blueprint)


def _assemble(cls: Any, accepted: Mapping[str, Any], built: dict[str, Any], blueprint: Blueprint) -> Any:
    arguments = {name: value for name, value in blueprint.arguments.items() if name in accepted}
    if built.get("safety_checker") is None and "requires_safety_checker" in accepted:
        arguments["requires_safety_checker"] = False
    for name, parameter in accepted.items():
        # Components that a model leaves out are published as null.
        required = parameter.default is inspect.Parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and name != "self" and name not in built and name not in arguments:
            arguments[name] = None
    try:
        pipeline = cls(**built, **arguments)
    except Exception as error:
        raise ModelLoadError(
            f"{blueprint.pipeline_class} could not be built from the components of {blueprint.model_id!r}: "
            f"{one_line(error).rstrip('.')}."
        ) from error
    pipeline.register_to_config(_name_or_path=blueprint.model_id)
    if blueprint.origin is not None:
        note_origin(pipeline, blueprint.origin)
    return pipeline


def note_origin(pipeline: Any, origin: Mapping[str, Any]) -> None:
    """Let a pipeline carry where its parts came from, for its profiles."""
    vars(pipeline)["_diffmeter_origin"] = dict(origin)


def origin_of(pipeline: Any) -> dict[str, Any] | None:
    """What :func:`note_origin` noted, or None."""
    noted: dict[str, Any] | None = vars(pipeline).get("_diffmeter_origin")
    return noted


def build_component(part: ComponentBlueprint, model_id: str, dtype: torch.dtype | None = None) -> Any:
    """One component on the meta device, in ``dtype`` (float32 unless given).

    Raises:
        ModelLoadError: it cannot be built from its configuration.
    """
    import torch

    blueprint = Blueprint(model_id, "", {})
    try:
        wanted = torch.float32 if dtype is None else dtype
        return _build_component(blueprint, part.class_name, part, {}, torch.device("meta"), wanted, None)
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"{part.class_name} of {model_id!r} could not be built from its configuration: "
            f"{one_line(error).rstrip('.')}."
        ) from error


def _build_component(
    blueprint: Blueprint,
    name: str,
    part: ComponentBlueprint,
    built: Mapping[str, Any],
    target: torch.device,
    dtype: torch.dtype,
    token_count: int | None,
) -> Any:
    if _is_tokenizer(part):
        return _tokenizer(part, built.get(_encoder_of(name)), token_count)
    import torch
    from transformers import ProcessorMixin

    cls = component_type(part.library, part.class_name, blueprint.model_id, name)
    if issubclass(cls, ProcessorMixin):
        return _processor(cls, part, built.get("text_encoder"), token_count)
    if not issubclass(cls, torch.nn.Module):
        return _without_weights(cls, part.config)
    model = _on_meta(cls, part.config) if target.type == "meta" else _new_model(cls, part.config)
    return _cast(model, target, dtype).eval()


def _cast(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Move a model, leaving in float32 the modules that its class wants there, as ``from_pretrained`` does."""
    import torch

    torch.nn.Module.to(model, device=device, dtype=dtype)
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    # transformers keeps them for float16 only, diffusers for every other dtype.
    if kept and (dtype == torch.float16 or not hasattr(model, "config_class")):
        for name, parameter in model.named_parameters():
            if kept.intersection(name.split(".")):
                parameter.data = parameter.data.float()
    return model


def _on_meta(cls: Any, config: Mapping[str, Any]) -> Any:
    """Construct a model without memory.

    Some constructors read a value back from a tensor that they make (a list of rates, a table of frequencies), which
    the meta device refuses; then only the parameters are kept off the memory, and the small rest is moved after.
    """
    import torch

    try:
        with torch.device("meta"):
            return _new_model(cls, config)
    except (NotImplementedError, RuntimeError) as error:
        logger.debug("%s cannot be constructed on the meta device (%s); skipping its parameters only", cls, error)
    from accelerate import init_empty_weights

    with init_empty_weights():
        return _new_model(cls, config)


def _new_model(cls: Any, config: Mapping[str, Any]) -> Any:
    """Construct a model from a published configuration, with the class's own initialization."""
    if hasattr(cls, "from_config") and not hasattr(cls, "config_class"):
        return cls.from_config({key: value for key, value in config.items() if key not in _STORAGE_KEYS})
    return cls(model_config(cls, config))


def model_config(cls: Any, config: Mapping[str, Any]) -> Any:
    """The configuration object of a transformers model class, from the published dictionary.

    A text or vision model may be published with the configuration of the whole of which it is a part (CLIP);
    then its own part is taken, as ``from_pretrained`` does.
    """
    settings = {key: value for key, value in config.items() if key not in _STORAGE_KEYS}
    config_class = cls.config_class
    key = getattr(config_class, "base_config_key", "")
    if key and isinstance(settings.get(key), Mapping) and settings.get("model_type") != config_class.model_type:
        settings = {k: v for k, v in settings[key].items() if k not in _STORAGE_KEYS}
    return config_class.from_dict(settings)


def _without_weights(cls: Any, config: Mapping[str, Any]) -> Any:
    """A scheduler, image processor or feature extractor, from its published configuration."""
    if hasattr(cls, "from_config"):
        return cls.from_config(dict(config))
    if hasattr(cls, "from_dict"):
        return cls.from_dict(dict(config))
    return cls(**config)


def _tokenizer(part: ComponentBlueprint, encoder: Any, token_count: int | None) -> Any:
    """The model's own tokenizer where its files are here and no token count is asked for, else a stand-in."""
    from .tokenizers import make_standin_tokenizer

    if part.folder is not None and token_count is None:
        real = _real_tokenizer(part)
        if real is not None:
            return real
    return make_standin_tokenizer(
        part.class_name,
        part.config,
        encoder_config=getattr(encoder, "config", None),
        token_count=token_count,
    )


def _processor(cls: Any, part: ComponentBlueprint, encoder: Any, token_count: int | None) -> Any:
    """A processor (tokenizer and image processor in one) from its files' contents, by file name, in ``part.config``.

    Its video half, which needs torchvision, is left out: no pipeline of diffusers gives a processor a video.
    """
    import transformers

    files = part.config
    images = files.get("preprocessor_config.json") or files.get("processor_config.json", {}).get("image_processor", {})
    image_class = getattr(transformers, str(images.get("image_processor_type", "")).removesuffix("Fast"), None)
    text = files.get("tokenizer_config.json", {})
    tokenizer_class = _renamed(str(text.get("tokenizer_class", "PreTrainedTokenizerFast")), "transformers")
    tokenizer = _tokenizer(
        ComponentBlueprint("transformers", tokenizer_class, text, part.folder), encoder, token_count
    )
    parts = {"image_processor": image_class.from_dict(dict(images)) if image_class else None, "tokenizer": tokenizer}
    accepted = inspect.signature(cls.__init__).parameters
    # The class insists on each of its parts; those that are missing are never asked for here.
    lenient = type(cls.__name__, (cls,), {"check_argument_for_proper_class": lambda self, name, value: type(value)})
    lenient.__module__ = cls.__module__
    template = files.get("chat_template.json", {}).get("chat_template") or tokenizer.chat_template
    return lenient(
        **{name: value for name, value in parts.items() if name in accepted},
        **({"video_processor": None} if "video_processor" in accepted else {}),
        chat_template=template,
    )


def _real_tokenizer(part: ComponentBlueprint) -> Any:
    import transformers

    for name in (_renamed(part.class_name, "transformers"), part.class_name):
        cls = getattr(transformers, name, None)
        if cls is None:
            continue
        try:
            return cls.from_pretrained(str(part.folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # Files may be missing or need a library that is not installed.
            logger.info("no tokenizer in %s (%s); a stand-in counts the tokens", part.folder, one_line(error))
    return None


def _is_tokenizer(part: ComponentBlueprint) -> bool:
    return "Tokenizer" in part.class_name


def _reads_text(part: ComponentBlueprint) -> bool:
    return _is_tokenizer(part) or part.class_name.endswith("Processor")


def _encoder_of(tokenizer_name: str) -> str:
    """The component that reads a tokenizer's ids: ``tokenizer_2`` belongs to ``text_encoder_2``."""
    return tokenizer_name.replace("tokenizer", "text_encoder")


def _renamed(class_name: str, library: str) -> str:
    return _RENAMED_CLASSES.get(class_name, class_name) if library == "transformers" else class_name


def _rng_devices(target: torch.device) -> list[Any]:
    return [target] if target.type == "cuda" else []
