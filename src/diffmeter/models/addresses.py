"""What a user may write to name a model, reduced to what it stands for: a folder, a file, or a place on the hub.

    black-forest-labs/FLUX.1-dev                                       a repository
    black-forest-labs/FLUX.1-dev@refs/pr/3                             at a revision
    stabilityai/stable-cascade/decoder                                 a folder in it
    Comfy-Org/flux1-dev/flux1-dev-fp8.safetensors                      a file in it
    https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/flux1-dev.safetensors
    ./my_pipeline  ~/models/dreamshaper.safetensors                    what is on this machine

What exists on this machine comes first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from diffmeter.errors import ModelNotFoundError, shown

#: endings of the files that hold weights and can be read without running code
WEIGHT_SUFFIXES = (".safetensors", ".gguf")
#: endings of files that Python's pickle reads, which may run code
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_NAME}(?:/{_NAME})?")
_REVISION = re.compile(r"[A-Za-z0-9._/-]+")
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
#: what stands between a repository and a revision in a page's address
_PAGE_PARTS = ("blob", "tree", "resolve", "raw", "commit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a model is. Exactly one of ``path`` and ``repository`` is set.

    Attributes:
        path: a folder or file on this machine.
        repository: ``owner/name`` (or a lone name) on the hub.
        revision: branch, tag or commit of the repository; None for its default.
        inside: path of a folder or file in the repository, with ``/`` between its parts; "" for the whole.
    """

    path: Path | None = None
    repository: str | None = None
    revision: str | None = None
    inside: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it names one file with weights rather than a folder."""
        name = self.path.name if self.path is not None else self.inside
        return name.lower().endswith(WEIGHT_SUFFIXES) and (self.path is None or self.path.is_file())


def parse_address(model: str | os.PathLike[str]) -> Address:
    """What ``model`` names.

    Raises:
        ModelNotFoundError: a path that does not exist, a kind of file that is not read, or a text that is neither a
            path nor an address on the hub.
    """
    text = os.fspath(model)
    if not isinstance(text, str) or not text.strip():
        raise ModelNotFoundError(f"model {text!r} is not usable: give a hub id (owner/name) or the path of a folder.")
    text = text.strip() if isinstance(model, str) else text
    path = _existing(text)
    if path is not None:
        return Address(path=_checked_file(path) if not path.is_dir() else path)
    if "://" in text:
        return _from_page(text)
    if not isinstance(model, str) or text.startswith((".", "/", "~", "\\")) or Path(text).is_absolute():
        kind = "file" if text.lower().endswith((*WEIGHT_SUFFIXES, *PICKLE_SUFFIXES)) else "folder"
        raise ModelNotFoundError(f"there is no {kind} {shown(text)}.")
    first = text.split("/", 1)[0].lower()
    if first in _HUB_HOSTS and "/" in text:
        return _from_page(f"https://{text}")
    return _from_id(text)


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # a NUL byte, longer than any path, or no home folder
        return None


def _checked_file(path: Path) -> Path:
    suffix = path.suffix.lower()
    if suffix in WEIGHT_SUFFIXES:
        return path
    if suffix in PICKLE_SUFFIXES:
        raise ModelNotFoundError(
            f"{shown(str(path))} is a pickle file, which may run code when it is read: convert it to .safetensors."
        )
    raise ModelNotFoundError(
        f"{shown(str(path))} is a file: give the folder of a pipeline, a .safetensors or .gguf file, or a hub id "
        "(owner/name)."
    )


def _from_page(address: str) -> Address:
    parts = urlsplit(address)
    if (parts.hostname or "").lower() not in _HUB_HOSTS and not _is_endpoint(parts.netloc):
        raise ModelNotFoundError(
            f"{shown(address)} is no page of the hub: give a hub id (owner/name) or the path of a folder."
        )
    pieces = [unquote(piece) for piece in parts.path.split("/") if piece]
    if pieces[:1] in (["spaces"], ["datasets"]):
        raise ModelNotFoundError(f"{shown(address)} is a {pieces[0][:-1]}, not a model.")
    cut = next((i for i, piece in enumerate(pieces) if i in (1, 2) and piece in _PAGE_PARTS), len(pieces))
    repository, rest = "/".join(pieces[: min(cut, 2)]), pieces[cut + 1 :]
    revision = rest[0] if rest else None
    if revision == "refs" and len(rest) >= 3:  # refs/pr/3
        revision, rest = "/".join(rest[:3]), rest[2:]
    return _hub_address(address, repository, None if revision == "main" else revision, "/".join(rest[1:]))


def _is_endpoint(netloc: str) -> bool:
    """Whether a host is the hub that ``HF_ENDPOINT`` names."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    return bool(netloc) and urlsplit(endpoint).netloc == netloc


def _from_id(text: str) -> Address:
    name, _, revision = text.rstrip("/").partition("@")
    pieces = name.split("/")
    return _hub_address(text, "/".join(pieces[:2]), revision or None, "/".join(pieces[2:]), "@" in text)


def _hub_address(
    text: str, repository: str, revision: str | None, inside: str, with_revision: bool = False
) -> Address:
    usable = _REPOSITORY.fullmatch(repository) and len(repository) <= 96
    usable = usable and ".." not in text and "--" not in repository
    usable = usable and all(piece and piece.isprintable() for piece in inside.split("/")) if inside else usable
    if with_revision or revision is not None:
        usable = usable and revision is not None and _REVISION.fullmatch(revision) is not None
    if not usable:
        raise ModelNotFoundError(
            f"model {shown(text)} is neither an existing folder or file nor a hub id of the form owner/name."
        )
    return Address(repository=repository, revision=revision, inside=inside)
