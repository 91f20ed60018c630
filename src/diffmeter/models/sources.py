"""What a name of a model means: a folder, an entry of the catalog, or an id of the hub. Decided once, here.

From there come a model's blueprint, its weights, and a pipeline without weights.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import DiffmeterError, ModelLoadError, ModelNotFoundError, TemporaryHubError

from . import blueprint as blueprints
from . import catalog, hub
from .addresses import Address, parse_address
from .weight_files import read_header

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Seconds before each new try of a download that failed for a reason that may pass. huggingface_hub retries single
# requests itself; these tries are for what it gives up on.
RETRY_DELAYS: tuple[float, ...] = (1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: as it was given.
        folder: the folder on this machine that the name is, if it is one.
        entry: the catalog's entry with this id or alias; a folder of the same name goes before it.
    """

    name: str
    folder: Path | None = None
    entry: catalog.CatalogEntry | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """One key for all the names of a model: its folder, its id in the catalog, or its hub id."""
        return str(self.folder.resolve()) if self.folder is not None else self.model_id

    @property
    def model_id(self) -> str:
        """The catalog's id where the name is an alias; otherwise the name."""
        return self.name if self.entry is None else self.entry.model_id

    @property
    def short_name(self) -> str:
        """The catalog's short name, or the last part of the id or path."""
        if self.entry is not None:
            return self.entry.name
        return re.split(r"[/\\]+", self.name.rstrip("/\\"))[-1] or self.name

    @property
    def label(self) -> str:
        """How tables name it: as :attr:`short_name`, but a hub id in full, since its last part says too little."""
        return self.name if self.folder is None and self.entry is None else self.short_name


def source_of(model: str | os.PathLike[str]) -> Source:
    """What the name of a model means; only the catalog and the folder's existence are looked at."""
    name = os.fspath(model)
    path = Path(name).expanduser() if "\0" not in name else None
    if path is not None and (os.path.isdir(path) or (isinstance(model, os.PathLike) and not os.path.isfile(path))):
        return Source(name, folder=path)
    return Source(name, entry=catalog.find(name))


def find_blueprint(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    config: str | os.PathLike[str] | None = None,
) -> blueprints.Blueprint:
    """The blueprint of a model: what is on this machine first, then the catalog, then the hub.

    A ``revision`` is always asked of the hub, since the catalog holds one state of each model. For a single file of
    weights, ``config`` names the folder or model that has its configuration; None finds it out from the tensors.

    Raises:
        ModelNotFoundError, ModelLoadError: one sentence.
    """
    entry = source_of(model).entry
    if entry is not None and revision is None:
        return entry_blueprint(entry) if entry.folder is None else hub.read_blueprint(entry.folder)
    address = parse_address(model)
    if address.is_file:
        return _of_file(os.fspath(model), address, token, config)
    if address.repository is not None and not address.inside:
        same = catalog.find(address.repository) if address.revision is None and revision is None else None
        if same is not None:
            return find_blueprint(same.model_id)
        model, revision = address.repository, revision or address.revision
    elif address.inside:
        raise ModelNotFoundError(
            f"{os.fspath(model)!r} is a part of a repository: count it alone with diffmeter count, or give the whole, "
            f"{address.repository}."
        )
    try:
        return hub.read_blueprint(model, revision=revision, variant=variant, token=token)
    except ModelLoadError as error:
        raise (error if address.path is not None else type(error)(did_you_mean(str(error), str(model)))) from error
    except ModelNotFoundError as error:
        raise ModelNotFoundError(did_you_mean(str(error), str(model))) from error


def did_you_mean(sentence: str, name: str) -> str:
    """A sentence about a model that was not found, with the nearest names of the catalog."""
    near = catalog.nearest(name)
    return f"{sentence.rstrip('.')}; did you mean {' or '.join(near)}?" if near else sentence


def entry_blueprint(entry: catalog.CatalogEntry) -> blueprints.Blueprint:
    """What a catalog entry says of its pipeline, in the form that ``blueprint.build`` takes."""
    return blueprints.Blueprint(
        model_id=entry.model_id,
        pipeline_class=entry.pipeline_class,
        components={
            name: blueprints.ComponentBlueprint(part.library, part.class_name, part.config)
            for name, part in entry.components.items()
        },
        arguments=entry.arguments,
    )


def build_pipeline_without_weights(
    model: str | os.PathLike[str],
    *,
    token_count: int | None = None,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Any:
    """Build a pipeline whose models lie on the meta device: its structure, without its weights or their memory.

    ``model`` is a catalog id or alias, a local folder in the diffusers layout, a hub id or address, of which only the
    configuration files are fetched, or a file of weights, of which only the header is read. ``token_count`` is how
    many tokens a prompt is taken to have (special tokens not included); None counts the prompt's words and
    punctuation. ``config`` is as for :func:`find_blueprint`.

    Raises:
        ModelNotFoundError, ModelLoadError: one sentence.
    """
    from diffmeter.compat import quiet_libraries

    found = find_blueprint(model, revision=revision, variant=variant, token=token, config=config)
    with quiet_libraries():
        return blueprints.build(found, device="meta", dtype=dtype, token_count=token_count)


def find_weights(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """The local folder with a model's weights, fetched from the hub if they are not here.

    Raises ``ModelNotFoundError`` or ``ModelLoadError`` with one sentence.
    """
    source = source_of(name)
    entry, name = source.entry, source.model_id
    if entry is not None and entry.folder is not None:
        return entry.folder
    folder = hub.local_folder(name)
    if folder is not None:
        return folder
    for delay in (*RETRY_DELAYS, None):
        try:
            return hub.download_weights(name, revision=revision, variant=variant, token=token)
        except TemporaryHubError as error:
            if delay is None:
                raise _with_hint(error, entry) from error
            logger.warning("%s Trying again in %g s.", error, delay)
            time.sleep(delay)
        except ModelLoadError as error:
            raise _with_hint(error, entry) from error
    raise AssertionError("unreachable")


def _with_hint(error: ModelLoadError, entry: catalog.CatalogEntry | None) -> ModelLoadError:
    """Say what still works without the weights, for a model that the catalog knows."""
    if entry is None:
        return ModelLoadError(str(error))
    return ModelLoadError(f"{str(error).rstrip('.')}; `diffmeter profile {entry.model_id}` needs no weights.")


def _of_file(
    model: str, address: Address, token: str | bool | None, config: str | os.PathLike[str] | None
) -> blueprints.Blueprint:
    """The blueprint of the first model that a file fits, tensor by tensor."""
    from . import single_file  # loads torch

    file = read_header(address, token)
    first: DiffmeterError | None = None
    for family in [config] if config is not None else single_file.families(file):
        try:
            found = single_file.without_optional(find_blueprint(family, token=token))
            contents = single_file.contents(file, blueprints.build(found, device="meta"))
        except DiffmeterError as error:
            first = first or error
            continue
        return replace(found, model_id=model, origin=single_file.origin(file, contents, os.fspath(family)))
    raise first if first is not None else ModelLoadError(f"{model} fits no model that is known.")
