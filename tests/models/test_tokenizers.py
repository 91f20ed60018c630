"""Stand-in tokenizers behave as the tokenizers that they stand in for, with ids that the text encoders can use."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers

from diffmeter import dry_run
from diffmeter.errors import InputError
from diffmeter.models.tokenizers import make_standin_tokenizer, prompt_of_tokens

CLIP = SimpleNamespace(vocab_size=49408, eos_token_id=2, max_position_embeddings=77)


def test_clip_frames_and_pads_as_published() -> None:
    tokenizer = make_standin_tokenizer("CLIPTokenizer", {"pad_token": "!"}, encoder_config=CLIP)
    assert isinstance(tokenizer, transformers.CLIPTokenizer)
    assert tokenizer.model_max_length == 77
    out = tokenizer(["a red circle", ""], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert out.input_ids.shape == (2, 77)
    # OpenAI's CLIP vocabulary ends in <|startoftext|> = 49406 and <|endoftext|> = 49407; "!" is its first entry.
    assert out.input_ids[0, 0] == 49406
    assert out.input_ids[0, 4] == 49407
    assert set(out.input_ids[0, 5:].tolist()) == {0}
    assert out.input_ids[1, :2].tolist() == [49406, 49407]
    assert out.attention_mask.sum(1).tolist() == [5, 2]


@pytest.mark.parametrize("eos_token_id", [2, 999, 998])
def test_clip_text_model_pools_at_the_end_of_the_text(eos_token_id: int) -> None:
    """The pooled output must be the hidden state of the first end-of-text token, whichever id the config names."""
    config = transformers.CLIPTextConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=eos_token_id,
        bos_token_id=0,
    )
    tokenizer = make_standin_tokenizer("CLIPTokenizer", {}, encoder_config=config)
    ids = tokenizer("one two three", padding="max_length", max_length=12, return_tensors="pt").input_ids
    assert int(ids.max()) < 1000
    with torch.no_grad():
        out = transformers.CLIPTextModel(config).eval()(ids)
    # <start> one two three <end>: position 4
    assert torch.allclose(out.pooler_output, out.last_hidden_state[:, 4])


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("T5Tokenizer", [None, 1]),
        ("T5TokenizerFast", [None, 1]),
        ("BertTokenizer", [101, 102]),
        ("GemmaTokenizerFast", [2, None]),
        ("LlamaTokenizerFast", [1, None]),
        ("Qwen2Tokenizer", [None, None]),
        ("SomethingElseTokenizer", [None, 1]),
    ],
)
def test_special_tokens_of_each_family(class_name: str, expected: list[int | None]) -> None:
    tokenizer = make_standin_tokenizer(class_name)
    ids = tokenizer("a red circle").input_ids
    first, last = expected
    assert len(ids) == 3 + (first is not None) + (last is not None)
    assert first is None or ids[0] == first
    assert last is None or ids[-1] == last


def test_tokens_are_words_punctuation_marks_and_ideographs() -> None:
    tokenizer = make_standin_tokenizer("T5Tokenizer")

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    assert count("") == 0
    assert count("a red, round circle.") == 6
    assert count("naïve 3D-Würfel") == 4  # naïve / 3D / - / Würfel
    assert count("红色圆") == 3
    assert count("two\nlines") == 2  # sentencepiece reads a line break as a blank


def test_chat_template_of_qwen_image_has_its_published_length() -> None:
    """QwenImagePipeline drops the first 34 tokens of its template, which the stand-in must therefore count as 34."""
    from diffusers import QwenImagePipeline

    tokenizer = make_standin_tokenizer("Qwen2Tokenizer", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    pipeline = QwenImagePipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=tokenizer, transformer=None)
    before = pipeline.prompt_template_encode.split("{}")[0]
    assert len(tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx == 34


def test_chat_template_is_applied() -> None:
    tokenizer = make_standin_tokenizer("Qwen2Tokenizer", {"eos_token": "<|im_end|>"})
    messages = [{"role": "user", "content": "a cat"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    own = make_standin_tokenizer("Qwen2Tokenizer", {"chat_template": "{{ messages[0]['content'] }}!"})
    assert own.apply_chat_template(messages, tokenize=False) == "a cat!"


def test_token_count_overrides_the_text_but_not_the_empty_one() -> None:
    tokenizer = make_standin_tokenizer("T5Tokenizer", token_count=7)
    assert len(tokenizer("one word").input_ids) == 8  # and </s>
    assert len(tokenizer("").input_ids) == 1
    batch = tokenizer(["one", "two words"], padding=True, return_tensors="pt")
    assert batch.input_ids.shape == (2, 8)
    assert len(tokenizer.encode("one")) == 8
    assert len(tokenizer.tokenize("one")) == 7


@pytest.mark.parametrize("bad", [-1, 1.5, "3", True])
def test_bad_token_count(bad: object) -> None:
    with pytest.raises(InputError, match="whole number of at least 0"):
        make_standin_tokenizer("T5Tokenizer", token_count=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("class_name", ["CLIPTokenizer", "T5Tokenizer", "Qwen2Tokenizer"])
def test_prompt_of_tokens(class_name: str) -> None:
    tokenizer = make_standin_tokenizer(class_name)
    for count in (0, 1, 30):
        assert len(tokenizer(prompt_of_tokens(count), add_special_tokens=False).input_ids) == count


def test_ids_fit_a_small_vocabulary_and_published_special_ids() -> None:
    encoder = SimpleNamespace(vocab_size=64, eos_token_id=[5, 6], bos_token_id=4, pad_token_id=3)
    config = {"added_tokens_decoder": {"7": {"content": "<extra>"}, "500": {"content": "<outside>"}}}
    tokenizer = make_standin_tokenizer("GemmaTokenizer", config, encoder_config=encoder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (4, 5, 3)
    ids = tokenizer("a b <extra>").input_ids
    assert max(ids) < 64
    nested = SimpleNamespace(text_config=encoder)
    assert make_standin_tokenizer("GemmaTokenizer", encoder_config=nested).eos_token_id == 5


def test_batch_decode_and_copy() -> None:
    tokenizer = make_standin_tokenizer("CLIPTokenizer", {}, encoder_config=CLIP)
    twin = copy.deepcopy(tokenizer)
    assert twin("a b").input_ids == tokenizer("a b").input_ids
    assert tokenizer.batch_decode([tokenizer("a b").input_ids], skip_special_tokens=True) is not None
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 49407


def test_lengths_that_padding_hides_are_no_estimates() -> None:
    clip = make_standin_tokenizer("CLIPTokenizer")
    clip("a red circle", padding="max_length", max_length=77, truncation=True)
    assert clip.estimated_lengths == set()
    chat = make_standin_tokenizer("Qwen2Tokenizer")
    chat("a red circle", padding=True)
    assert chat.estimated_lengths == {3}
    chat(["", "a, b"])
    assert chat.estimated_lengths == {3}  # "a", the comma, "b"; an empty text is no estimate
    told = make_standin_tokenizer("Qwen2Tokenizer", token_count=5)
    told("a red circle")
    assert told.estimated_lengths == set()


def test_a_profile_says_that_its_tokens_are_an_estimate() -> None:
    """Z-Image's transformer reads as many tokens as the prompt has; SD 1.5 pads every prompt to 77."""
    size = {"height": 256, "width": 256, "steps": 1, "prompt": "a red circle"}
    estimated = dry_run("z-image-turbo", **size).conditions.estimated
    assert "counted without the model's own tokenizer" in estimated["tokens"]
    assert dry_run("z-image-turbo", **size, tokens=12).conditions.estimated == {}
    assert dry_run("sd15", **size).conditions.estimated == {}
