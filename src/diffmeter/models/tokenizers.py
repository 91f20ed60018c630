"""Tokenizers that need no vocabulary file, for pipelines that are built without their weights.

What a diffusion model costs depends on how many tokens a prompt has, never on which. A stand-in is a real
``transformers`` tokenizer (an instance of the class that the pipeline expects, padding, truncating and returning
tensors as that class does) over a word-level vocabulary in which every piece of text is the same unknown word.

How many tokens a text has is an estimate: one for each run of letters or digits, each punctuation mark, each
ideograph, and (for chat models) each line break and each special token, plus the special tokens that the class adds
around a text. Byte-pair vocabularies split rare words further, so a real count is the same or larger. Most pipelines
pad to a fixed length and cost the same either way; for the others, give the count as ``token_count``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from diffmeter.errors import whole_number

WORD = "<word>"

# Long enough for any real prompt. transformers itself writes 10**30 for "no limit", which some pipelines cannot use.
NO_LENGTH_LIMIT = 10**30


@dataclass(frozen=True)
class _Kind:
    """How one family of tokenizers frames a text. Token ids are those of the family's published vocabularies."""

    vocab_size: int
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int = 0
    adds_bos: bool = False
    adds_eos: bool = False
    keeps_line_breaks: bool = False


_KINDS: dict[str, _Kind] = {
    "CLIP": _Kind(49408, "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", None, None, 0, True, True),
    "T5": _Kind(32128, None, "</s>", "<pad>", None, 1, 0, False, True),
    "Bert": _Kind(30522, "[CLS]", "[SEP]", "[PAD]", 101, 102, 0, True, True),
    "Gemma": _Kind(256000, "<bos>", "<eos>", "<pad>", 2, 1, 0, True, False, True),
    "Llama": _Kind(32000, "<s>", "</s>", "<pad>", 1, 2, 0, True, False, True),
    "Roberta": _Kind(50265, "<s>", "</s>", "<pad>", 0, 2, 1, True, True),
    "Qwen": _Kind(151936, None, "<|im_end|>", "<|endoftext|>", None, 151645, 151643, False, False, True),
    "GPT2": _Kind(50257, None, "<|endoftext|>", "<|endoftext|>", None, 50256, 50256, False, False, True),
}
_OTHER = _Kind(32000, None, "</s>", "<pad>", None, 1, 0, False, True, True)

_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] if 'text' in part else '<|image|>' }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def prompt_of_tokens(count: int) -> str:
    """A prompt that a stand-in tokenizer splits into exactly ``count`` tokens, special tokens not included.

    Raises ``InputError`` when ``count`` is not a whole number of at least 0.
    """
    return " ".join(["word"] * _checked_count(count))


def make_standin_tokenizer(
    class_name: str,
    config: Mapping[str, Any] | None = None,
    *,
    encoder_config: Any = None,
    token_count: int | None = None,
) -> Any:
    """Build a stand-in for the tokenizer class ``class_name``.

    ``config`` is the published ``tokenizer_config.json`` (maximum length, special tokens, chat template), which may
    be missing or partial. ``encoder_config`` is the configuration of the text encoder that reads the ids: every id
    lies inside its vocabulary and the end-of-text token is the one that it looks for. With ``token_count``, every
    text that is not empty has that many tokens, special tokens not included.
    """
    count = None if token_count is None else _checked_count(token_count)
    settings = dict(config or {})
    kind = _kind_of(class_name)
    vocabulary = _Vocabulary(kind, settings, _text_config(encoder_config))

    return _standin_class(class_name)(
        tokenizer_object=_backend(vocabulary, kind),
        token_count=count,
        unk_token=WORD,
        bos_token=vocabulary.bos,
        eos_token=vocabulary.eos,
        pad_token=vocabulary.pad,
        model_max_length=_max_length(settings, class_name, _text_config(encoder_config)),
        padding_side=settings.get("padding_side", "right"),
        chat_template=settings.get("chat_template") or _CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class _Vocabulary:
    """The few tokens of a stand-in and their ids, which fit the text encoder that will read them."""

    def __init__(self, kind: _Kind, settings: Mapping[str, Any], encoder: Any) -> None:
        size = _int_or_none(getattr(encoder, "vocab_size", None)) or kind.vocab_size
        self.size = size
        self.ids: dict[str, int] = {}
        named = _added_token_ids(settings)

        def place(token: str | None, *candidates: int | None) -> str | None:
            if token is None:
                return None
            if token not in self.ids:
                taken = set(self.ids.values())
                options = [c for c in candidates if c is not None and 0 <= c < size and c not in taken]
                self.ids[token] = options[0] if options else next(i for i in range(size) if i not in taken)
            return token

        clip = kind is _KINDS["CLIP"]
        eos_text = _token_text(settings, "eos_token", kind.eos)
        bos_text = _token_text(settings, "bos_token", kind.bos) if kind.bos is not None else None
        pad_text = _token_text(settings, "pad_token", kind.pad)
        published_eos = _first_id(getattr(encoder, "eos_token_id", None))
        if clip:
            # CLIP's text model pools at the end-of-text token: at the highest id where its config says 2 (an old
            # mistake that transformers keeps working), otherwise at the first token with the id that the config says.
            eos_id = published_eos if published_eos not in (None, 2) else size - 1
            self.eos = place(eos_text, eos_id, size - 1)
            self.bos = place(bos_text, size - 2, 0)
        else:
            self.eos = place(eos_text, named.get(eos_text or ""), published_eos, kind.eos_id)
            bos_id = _first_id(getattr(encoder, "bos_token_id", None))
            self.bos = place(bos_text, named.get(bos_text or ""), bos_id, kind.bos_id)
        published_pad = None if clip else _first_id(getattr(encoder, "pad_token_id", None))
        self.pad = place(pad_text, named.get(pad_text or ""), published_pad, kind.pad_id) or self.eos
        for text, token_id in named.items():
            if 0 <= token_id < size and token_id not in self.ids.values():
                place(text, token_id)
        place(WORD, min(320, size // 2))


def _backend(vocabulary: _Vocabulary, kind: _Kind) -> Any:
    """A ``tokenizers`` tokenizer that splits a text into words, all of them unknown, and frames it as ``kind``."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Sequence, Split
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordLevel(vocabulary.ids, unk_token=WORD))
    blank = r"[^\S\n]+" if kind.keeps_line_breaks else r"\s+"
    piece = r"<\|[^|<>]*\|>|\p{Han}|[\p{L}\p{M}\p{N}_]+|\n+|[^\s\p{L}\p{M}\p{N}_]"
    tokenizer.pre_tokenizer = Sequence([Split(Regex(blank), "removed"), Split(Regex(piece), "isolated")])

    before = [vocabulary.bos] if kind.adds_bos and vocabulary.bos else []
    after = [vocabulary.eos] if kind.adds_eos and vocabulary.eos else []
    if before or after:
        tokenizer.post_processor = TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, "$B:1", *(f"{token}:1" for token in after)],
            special_tokens=[(token, vocabulary.ids[token]) for token in dict.fromkeys([*before, *after])],
        )
    return tokenizer


@cache
def _standin_class(class_name: str) -> type:
    """A subclass of ``transformers.<class_name>`` whose constructor takes a backend instead of vocabulary files.

    Where that class is not built on the ``tokenizers`` library (older transformers), the general class serves.
    """
    import transformers

    general = transformers.PreTrainedTokenizerFast
    expected = None
    for name in (class_name, f"{class_name}Fast"):
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, general):
            expected = found
            break
    base: Any = expected or general

    # Pipelines read these encoders' output with its padding; of chat models they may cut it off.
    pads_always = class_name.startswith(("CLIP", "T5", "Bert", "Roberta"))

    class StandInTokenizer(base):  # type: ignore[misc]  # the base is found at run time
        token_count: int | None
        #: lengths of texts that were neither padded nor cut to a fixed length: estimates that may decide the cost
        estimated_lengths: set[int]

        def __init__(self, *, tokenizer_object: Any, token_count: int | None = None, **kwargs: Any) -> None:
            self.token_count = token_count
            self.estimated_lengths = set()
            # The expected class would read vocabulary files in its own constructor.
            general.__init__(self, tokenizer_object=tokenizer_object, **kwargs)

        def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
            result = super().__call__(self._with_token_count(text), *args, **kwargs)
            if self.token_count is None and not (pads_always and kwargs.get("padding") == "max_length"):
                self.estimated_lengths.update(_lengths(self, text))
            return result

        def tokenize(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            return super().tokenize(self._with_token_count(text), *args, **kwargs)

        def encode(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            return super().encode(self._with_token_count(text), *args, **kwargs)

        def _with_token_count(self, text: Any) -> Any:
            if self.token_count is None:
                return text
            if isinstance(text, str):
                return prompt_of_tokens(self.token_count) if text.strip() else text
            if isinstance(text, (list, tuple)):
                return [self._with_token_count(part) for part in text]
            return text

    # A pipeline records its components by the class's own name and module.
    StandInTokenizer.__name__ = StandInTokenizer.__qualname__ = base.__name__
    StandInTokenizer.__module__ = base.__module__
    return StandInTokenizer


def _lengths(tokenizer: Any, text: Any) -> Iterator[int]:
    """The tokens of each text that is not empty, special tokens not included."""
    texts = [text] if isinstance(text, str) else text if isinstance(text, (list, tuple)) else []
    for each in texts:
        if isinstance(each, str) and each.strip():
            expected: Any = type(tokenizer).__mro__[1]
            yield len(expected.tokenize(tokenizer, each))


def stand_ins_of(components: Iterable[Any]) -> list[Any]:
    """The stand-in tokenizers among a pipeline's components, those inside processors included."""
    candidates = (each for part in components for each in (part, getattr(part, "tokenizer", None)))
    return [each for each in candidates if hasattr(each, "estimated_lengths")]


@contextmanager
def longer_texts(tokenizers: Iterable[Any], tokens: int) -> Iterator[None]:
    """Let stand-in tokenizers find ``tokens`` tokens in every text, for the block."""
    before = [(tokenizer, tokenizer.token_count) for tokenizer in tokenizers]
    for tokenizer, _ in before:
        tokenizer.token_count = tokens
    try:
        yield
    finally:
        for tokenizer, count in before:
            tokenizer.token_count = count


def _kind_of(class_name: str) -> _Kind:
    for prefix, kind in _KINDS.items():
        if class_name.startswith((prefix, f"U{prefix}", f"M{prefix}", f"X{prefix}")):
            return kind
    return _OTHER


def _text_config(config: Any) -> Any:
    """The part of a (possibly multi-modal) model configuration that describes the text model."""
    if config is None or hasattr(config, "vocab_size"):
        return config
    return getattr(config, "text_config", None)


def _max_length(settings: Mapping[str, Any], class_name: str, encoder: Any) -> int:
    published = _int_or_none(settings.get("model_max_length"))
    if published is not None and published > 0:
        return published
    if class_name.startswith("CLIP"):
        return _int_or_none(getattr(encoder, "max_position_embeddings", None)) or 77
    return NO_LENGTH_LIMIT


def _token_text(settings: Mapping[str, Any], key: str, default: str | None) -> str | None:
    """The text of a special token as published: a string, or a dictionary with ``content``."""
    value = settings.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else default


def _added_token_ids(settings: Mapping[str, Any]) -> dict[str, int]:
    decoder = settings.get("added_tokens_decoder")
    ids: dict[str, int] = {}
    if isinstance(decoder, Mapping):
        for key, entry in decoder.items():
            text = entry.get("content") if isinstance(entry, Mapping) else None
            if isinstance(text, str) and str(key).isdigit():
                ids[text] = int(key)
    return ids


def _first_id(value: Any) -> int | None:
    """A token id from a configuration, where some models list several."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return _int_or_none(value)


def _int_or_none(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value)


def _checked_count(count: Any) -> int:
    return whole_number(count, "the number of tokens", 0)
