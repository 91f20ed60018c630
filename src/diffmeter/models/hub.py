"""Read what decides a model's compute from a folder or from the hub, without its weights.

Of a hub repository only ``model_index.json`` and the components' configuration files are fetched: kilobytes. Files go
through huggingface_hub, so ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` mean what they mean
there, and what was fetched once is read from its cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from diffmeter.errors import DiffmeterError, ModelLoadError, ModelNotFoundError, TemporaryHubError

from .addresses import Address
from .blueprint import Blueprint, ComponentBlueprint, component_type, pipeline_type

logger = logging.getLogger(__name__)

INDEX_FILE = "model_index.json"


# A configuration is kilobytes; anything near this is not one.
_MAX_CONFIG_BYTES = 8 * 1024 * 1024

# A new try can help after these answers: time-out, too many requests, and the hub's own troubles.
_TEMPORARY_STATUS = frozenset({408, 429, 500, 502, 503, 504})

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "chat_template.json",
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPONENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class _Source(Protocol):
    """Where configuration files come from."""

    def path(self, name: str) -> Path | None:
        """The local path of a file, fetched if need be, or None if the model has no such file."""

    def folder(self, name: str) -> Path | None:
        """The local folder of a component if all of its files are here."""


@dataclass(frozen=True)
class _Folder:
    root: Path

    def path(self, name: str) -> Path | None:
        found = self.root / name
        return found if found.is_file() else None

    def folder(self, name: str) -> Path | None:
        found = self.root / name
        return found if found.is_dir() else None


@dataclass(frozen=True)
class _Repository:
    model_id: str
    revision: str | None
    token: str | bool | None

    def path(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(
                hf_hub_download(
                    self.model_id,
                    name,
                    revision=self.revision,
                    token=self.token,
                    local_files_only=_unreachable(),
                )
            )
        except LocalEntryNotFoundError as error:
            # Offline, or the hub did not answer, and the file is not in the cache: whether it exists is not known.
            raise hub_error(error, self.model_id, self.revision) from error
        except EntryNotFoundError:
            return None
        except Exception as error:
            raise hub_error(error, self.model_id, self.revision) from error

    def folder(self, name: str) -> Path | None:
        return None


def local_folder(model: str | os.PathLike[str]) -> Path | None:
    """The folder that ``model`` names, or None if it names a hub repository.

    An existing folder comes first. Raises ``ModelNotFoundError`` for what can only be a path and does not exist, and
    for a text that can be neither.
    """
    text = os.fspath(model)
    if not isinstance(text, str) or not text.strip():
        raise ModelNotFoundError(f"model {text!r} is not usable: give a hub id (owner/name) or the path of a folder.")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, ValueError):  # a NUL byte, or longer than any path
        is_file = False
    if is_file:
        raise ModelNotFoundError(f"{_short(text)} is a file: give the folder of a pipeline or a hub id (owner/name).")
    if not isinstance(model, str) or text.startswith((".", "/", "~", "\\")) or path.is_absolute():
        raise ModelNotFoundError(f"there is no folder {_short(text)}.")
    if not _REPO_ID.fullmatch(text) or ".." in text or "--" in text or len(text) > 96:
        raise ModelNotFoundError(
            f"model {_short(text)} is neither an existing folder nor a hub id of the form owner/name."
        )
    return None


def read_blueprint(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> Blueprint:
    """Read the blueprint of a local folder or a hub repository in the diffusers layout.

    ``variant`` changes only which weight files a model has, never its configuration; a variant that the repository
    does not have is refused all the same, since the run that is asked about could not be made.

    Raises ``ModelNotFoundError`` or ``ModelLoadError`` with one sentence.
    """
    folder = local_folder(model)
    name = os.fspath(model)
    source: _Source = _Folder(folder) if folder else _Repository(str(model), revision, token)
    index = _read_json(source, INDEX_FILE, name)
    if index is None:
        raise ModelNotFoundError(f"{_short(name)} is no diffusers pipeline: it has no {INDEX_FILE}.")
    if variant is not None:
        _check_variant(source, name, variant)
    return _parse_index(index, source, name)


def read_text(address: Address, name: str, token: str | bool | None = None) -> str:
    """A small text file of the folder that a hub address names.

    Raises:
        ModelNotFoundError: there is no such file, or no such repository.
        ModelLoadError: it cannot be had now.
    """
    source = _Repository(str(address.repository), address.revision, token)
    path = source.path(f"{address.inside}/{name}".lstrip("/"))
    if path is None:
        raise ModelNotFoundError(f"{_short(f'{address.repository}/{address.inside}')} has no {name}.")
    return path.read_text(encoding="utf-8", errors="replace")


def _parse_index(index: Any, source: _Source, name: str) -> Blueprint:
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(class_name, list):
        raise ModelLoadError(f"{_short(name)} needs pipeline code of its own, {class_name!r}, which is not run.")
    if not isinstance(class_name, str):
        raise ModelLoadError(f"{INDEX_FILE} of {_short(name)} is malformed: it names no pipeline class.")
    pipeline_type(class_name, name)

    components: dict[str, ComponentBlueprint] = {}
    arguments: dict[str, Any] = {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if not isinstance(value, list):
            arguments[key] = value
            continue
        if len(value) != 2 or not all(part is None or isinstance(part, str) for part in value):
            raise ModelLoadError(
                f"{INDEX_FILE} of {_short(name)} is malformed: {key!r} is {value!r}, not [library, class]."
            )
        if not _COMPONENT_NAME.fullmatch(key):
            raise ModelLoadError(f"{INDEX_FILE} of {_short(name)} is malformed: {key!r} is no component name.")
        if value[0] is not None and value[1] is not None:
            components[key] = _read_component(source, name, key, value[0], value[1])
    return Blueprint(name, class_name, components, arguments)


def _read_component(source: _Source, name: str, key: str, library: str, class_name: str) -> ComponentBlueprint:
    folder = source.folder(key)
    if "Tokenizer" in class_name and library == "transformers":
        config = _read_json(source, f"{key}/tokenizer_config.json", name) or {}
        return ComponentBlueprint(
            library, class_name, _as_object(config, f"{key}/tokenizer_config.json", name), folder
        )

    cls = component_type(library, class_name, name, key)
    if _is_processor(cls):
        files = {
            file_name: _as_object(config, f"{key}/{file_name}", name)
            for file_name in _PROCESSOR_FILES
            if (config := _read_json(source, f"{key}/{file_name}", name)) is not None
        }
        return ComponentBlueprint(library, class_name, files, folder)
    for file_name in _config_files(cls):
        config = _read_json(source, f"{key}/{file_name}", name)
        if config is not None:
            return ComponentBlueprint(library, class_name, _as_object(config, f"{key}/{file_name}", name), folder)
    raise ModelLoadError(
        f"component {key!r} of {_short(name)} has no {' or '.join(_config_files(cls))}, so its size is not known."
    )


def _is_processor(cls: Any) -> bool:
    from transformers import ProcessorMixin

    return issubclass(cls, ProcessorMixin)


def _config_files(cls: Any) -> tuple[str, ...]:
    """The files that may hold the configuration of a component of this class, the usual one first."""
    if hasattr(cls, "config_class"):
        return ("config.json",)
    name = getattr(cls, "config_name", None)
    if isinstance(name, str):
        return (name,)
    return ("preprocessor_config.json", "processor_config.json")


def _read_json(source: _Source, file_name: str, name: str) -> Any:
    """The content of a JSON file of the model, or None if it has no such file."""
    path = source.path(file_name)
    if path is None:
        return None
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelLoadError(f"{file_name} of {_short(name)} is too large for a configuration file.")
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelLoadError(f"{file_name} of {_short(name)} is not valid JSON: {error}.") from error
    except OSError as error:
        raise ModelLoadError(f"{file_name} of {_short(name)} cannot be read: {error.strerror}.") from error


def _as_object(config: Any, file_name: str, name: str) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise ModelLoadError(f"{file_name} of {_short(name)} is malformed: it must hold an object.")
    return config


def _check_variant(source: _Source, name: str, variant: str) -> None:
    files = _file_names(source)
    if files is not None and not any(f".{variant}." in file_name for file_name in files):
        raise ModelLoadError(f"{_short(name)} has no weights of the variant {variant!r}.")


def _file_names(source: _Source) -> list[str] | None:
    """The names of the model's files; None where they cannot be listed (offline)."""
    if isinstance(source, _Folder):
        return [path.name for path in source.root.glob("*/*")]
    assert isinstance(source, _Repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return HfApi().list_repo_files(source.model_id, revision=source.revision, token=source.token)
    except OfflineModeIsEnabled:
        return None
    except Exception as error:
        raise hub_error(error, source.model_id, source.revision) from error


def download_weights(
    model_id: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Fetch a hub model, safetensors weights only, and return its folder in the cache.

    What is in the cache already is not fetched again, and with HF_HUB_OFFLINE nothing is. Each new weight file is
    checked against the hash that the hub names it by; one that differs is removed.

    Raises ``ModelNotFoundError``, ``ModelLoadError``, or ``TemporaryHubError`` where a new try may help.
    """
    from diffusers import DiffusionPipeline

    started = time.time()
    try:
        folder = DiffusionPipeline.download(
            model_id,
            revision=revision,
            variant=variant,
            token=token,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=_offline() or _unreachable(),
        )
    except Exception as error:
        raise hub_error(error, model_id, revision) from error
    _check_hashes(Path(folder), model_id, started)
    return Path(folder)


def _check_hashes(folder: Path, model_id: str, since: float) -> None:
    """Compare the weight files that arrived after ``since`` with their hash, and remove those that differ.

    The cache names a large file by the SHA-256 that the hub states for it. huggingface_hub compares sizes only.
    """
    for link in sorted(folder.rglob("*.safetensors")):
        blob = link.resolve()
        if not _SHA256.fullmatch(blob.name) or blob.stat().st_mtime < since - 1:
            continue
        digest = hashlib.sha256()
        with blob.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != blob.name:
            link.unlink()
            blob.unlink(missing_ok=True)
            raise TemporaryHubError(
                f"{_short(model_id)} could not be fetched: {link.relative_to(folder).as_posix()} arrived corrupt (its "
                f"hash is not the one that the hub states)."
            )


def _unreachable() -> bool:
    """Whether the hub's host has no address here, as on a machine without a network.

    huggingface_hub would try again for half a minute for each file. Behind a proxy the proxy looks addresses up.
    """
    from huggingface_hub import constants

    if _offline() or any(getproxies().get(kind) for kind in ("http", "https", "all")):
        return False
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.getaddrinfo(host.hostname, host.port or 443)
    except OSError:
        return True
    return False


def hub_error(error: BaseException, model_id: str, revision: str | None = None) -> DiffmeterError:
    """The exception with the one sentence that says why a model could not be had from the hub."""
    from huggingface_hub import errors

    name = _short(model_id)
    chain = list(_causes(error))

    def first(*kinds: type[BaseException]) -> Any:
        return next((link for link in chain if isinstance(link, kinds)), None)

    if isinstance(error, DiffmeterError):
        return error
    if first(errors.GatedRepoError):
        return ModelLoadError(
            f"{name} is gated: accept its terms on its hub page and set HF_TOKEN to a token of that account."
        )
    if first(errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{name} has no revision {revision!r}.")
    if first(errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"{name} is not on the hub, or is private: check the name, and set HF_TOKEN for a private model."
        )
    if first(errors.HFValidationError):
        return ModelNotFoundError(f"model {name} is neither an existing folder nor a hub id of the form owner/name.")
    if first(errors.OfflineModeIsEnabled) or (first(errors.LocalEntryNotFoundError) and _offline()):
        return ModelLoadError(f"{name} is not in the local cache, and HF_HUB_OFFLINE forbids asking the hub.")
    http_error = first(errors.HfHubHTTPError)
    if http_error is not None:
        kind = TemporaryHubError if _status(http_error) in _TEMPORARY_STATUS else ModelLoadError
        return kind(f"{name} could not be fetched: {_http_reason(http_error)}.")
    missing = first(errors.EntryNotFoundError)
    if missing is not None and not isinstance(missing, errors.LocalEntryNotFoundError):
        return ModelLoadError(f"{name} lacks a file that it should have: {_first_line(missing)}.")
    if any("timeout" in type(link).__name__.lower() for link in chain):
        return TemporaryHubError(f"{name} could not be fetched: the hub did not answer in time.")
    if any("Consistency check failed" in str(link) for link in chain):
        return TemporaryHubError(f"{name} could not be fetched: a file arrived incomplete.")
    if any(type(link).__name__ in ("RemoteProtocolError", "ReadError", "ChunkedEncodingError") for link in chain):
        return TemporaryHubError(f"{name} could not be fetched: the connection to the hub broke off.")
    if first(errors.LocalEntryNotFoundError) or any(_is_connection_error(link) for link in chain):
        kind = ModelLoadError if _unreachable() else TemporaryHubError
        return kind(
            f"{name} is not in the local cache and the hub cannot be reached: check the connection and HF_ENDPOINT."
        )
    # diffusers says with these words that the listing of a repository lacks what was asked for.
    if "variant=" in str(error) and "no such modeling files" in str(error):
        return ModelLoadError(f"{name} has no weights of the variant that was asked for.")
    if "necessary `safetensors` weights" in str(error):
        return ModelLoadError(f"{name} lacks weights in the safetensors format; no other format is loaded.")
    return ModelLoadError(f"{name} could not be loaded: {_first_line(error)}.")


def _http_reason(error: Any) -> str:
    status = _status(error)
    reasons = {
        401: "the hub does not accept the token (401); check HF_TOKEN",
        403: "the hub forbids access with this token (403)",
        404: "the hub has no such file (404)",
        429: "the hub limits the rate of requests (429); try again later, or set HF_TOKEN",
    }
    if status in reasons:
        return reasons[status]
    if status is not None and status >= 500:
        return f"the hub has an error of its own ({status}); try again later"
    return f"the hub answered {status}" if status is not None else _first_line(error)


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_connection_error(error: BaseException) -> bool:
    # By name, since huggingface_hub has changed its HTTP library more than once.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "NetworkError", "TransportError"})


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return (text[:297] + "...") if len(text) > 300 else text.rstrip(".")


def _short(text: str) -> str:
    """A name from the outside for a message: quoted, control characters escaped, not endless."""
    return repr(text if len(text) <= 120 else text[:117] + "...")
