"""Open lists: one module per item, looked up by name. The folder is the list; nothing registers itself."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Generic, TypeVar, final

from penchant.errors import unknown

Item = TypeVar("Item")


@final
class Catalog(Generic[Item]):
    """The modules of a package, each holding one constant; installed plugins come after.

    The item `diffusion-dpo` is the module `diffusion_dpo`. Modules whose name starts with an underscore
    are not items. Other packages add items through the entry-point group named like the package.
    """

    def __init__(self, package: str, path: Sequence[str], constant: str) -> None:
        self.package, self.constant = package, constant
        self._own = {m.name.replace("_", "-"): m.name for m in iter_modules(path) if m.name[0] != "_"}

    def names(self) -> list[str]:
        """All names, without importing a module."""
        return sorted(self._own.keys() | {point.name for point in entry_points(group=self.package)})

    def get(self, name: str, *, where: str | None = None) -> Item:
        """Import and return one item; an unknown name is a ConfigError that lists the known ones."""
        if module := self._own.get(name):
            return getattr(import_module(f"{self.package}.{module}"), self.constant)
        for plugin in entry_points(group=self.package, name=name):
            return plugin.load()
        raise unknown(self.constant.lower(), name, self.names(), where=where or self.package)
