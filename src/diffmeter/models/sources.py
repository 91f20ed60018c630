"""What a name of a model means: a folder, an entry of the catalog, or an id of the hub. Decided once, here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import catalog


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
    if path is not None and (os.path.isdir(path) or isinstance(model, os.PathLike)):
        return Source(name, folder=path)
    return Source(name, entry=catalog.find(name))
