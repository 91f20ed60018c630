"""The report for the browser: one file, escaped, that may load nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diffmeter import ComputeProfile, cli, observe
from diffmeter.errors import InputError
from diffmeter.reports.page import report, save_report
from tests.zoo import ZOO

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e<!--"


@pytest.fixture(scope="module")
def profile() -> ComputeProfile:
    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.set_progress_bar_config(disable=True)
    with observe(pipe) as run:
        pipe("x", num_inference_steps=3, height=32, width=32)
    return run.profile


class Page(HTMLParser):
    """Elements, texts and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in self.inside else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.inside[self._open].append(data)
        else:
            self.texts.append(data)


def test_it_asks_for_nothing(profile: ComputeProfile) -> None:
    page = Page(report({"a": profile}))
    for _, attributes in page.elements:
        assert not {"src", "href", "style"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for text, kind in ((page.inside["style"][0], "style-src"), (page.inside["script"][-1], "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy


def test_the_data_inside_is_the_profile(profile: ComputeProfile) -> None:
    page = Page(report({"a": profile}))
    assert ComputeProfile.from_dict(json.loads(page.inside["script"][0])["a"]) == profile


def test_it_is_small_without_data(profile: ComputeProfile) -> None:
    text = report({"a": profile})
    assert len(text) - len(json.dumps(profile.to_dict())) < 150_000


def test_hostile_texts_stay_texts(profile: ComputeProfile) -> None:
    conditions = replace(profile.conditions, model_id=HOSTILE, arguments={"prompt": HOSTILE})
    text = report({HOSTILE: replace(profile, conditions=conditions)})
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert any(HOSTILE in each for each in page.texts)
    assert json.loads(page.inside["script"][0])[HOSTILE]["conditions"]["model_id"] == HOSTILE


def test_every_component_and_call_is_there(profile: ComputeProfile) -> None:
    page = Page(report({"a": profile}))
    for name, part in profile.components.items():
        assert name in page.texts
        assert part.class_name in page.texts
    slices = [text for text in page.texts if re.match(r"(unet|vae|text_encoder)\.\w+(, step \d+)?: ", text)]
    assert len(slices) == sum(part.call_count for part in profile.components.values())


def test_an_incomplete_profile_says_so_first(profile: ComputeProfile) -> None:
    part = replace(profile, uncounted=({"component": "unet", "reason": "unknown kernel", "calls": 1},))
    page = Page(report({"a": part}))
    said = [text for text in page.texts if text.strip()]
    assert any(text.startswith("INCOMPLETE") for text in said[:4])
    assert any(text.startswith(">= ") for text in said)
    assert not any(text == "100.00%" for text in said)


def test_several_are_side_by_side(profile: ComputeProfile, tmp_path: Path) -> None:
    page = Page(report({"first": profile, "second": profile}))
    assert page.texts.count("first") == 2  # in the table, and as a heading
    path = save_report({"first": profile}, tmp_path / "x.html")
    assert path.read_text(encoding="utf-8") == report({"first": profile})
    assert profile.save_html(tmp_path / "y.html").is_file()


@pytest.mark.parametrize(
    ("profiles", "path", "message"), [({}, "a.html", "at least one"), ({"a": 1}, "a.txt", ".html")]
)
def test_bad_input(profiles: dict[str, Any], path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        save_report(profiles, tmp_path / path)


def test_the_command_reads_files_and_folders(
    profile: ComputeProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.save(tmp_path / "a.json")
    arguments = [str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--output", str(tmp_path / "r.html")]
    monkeypatch.setattr("sys.argv", ["diffmeter", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert set(json.loads(Page((tmp_path / "r.html").read_text()).inside["script"][0])) == {"a", "a (2)"}
