"""Self-contained pages: from templates to files, everything that is not our own markup escaped."""

from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from penchant.errors import RunFolderError
from penchant.files import write_text
from penchant.reports.summary import number, percent, percent_range, signed


def render_page(kind: Literal["report", "sweep"], *, name: str, **values: Any) -> str:
    """A page as text.

    Args:
        kind: Which page, the name of its template.
        name: Its title.
        **values: What the template shows.
    """
    environment = Environment(
        loader=PackageLoader("penchant.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, number=number, percent_range=percent_range, signed=signed)
    return environment.get_template(f"{kind}.html.j2").render(kind=kind, name=name, **values)


def write_page(path: Path, page: str) -> Path:
    """Write a page in one step; the path again.

    Raises:
        RunFolderError: It cannot be written.
    """
    try:
        write_text(path, page)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written, {error}. Check space and rights.") from None
    return path
