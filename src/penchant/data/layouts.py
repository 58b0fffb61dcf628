"""Public data sets in columns of their own, recognised by these columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from penchant.data.columns import Columns, Table
from penchant.data.tables import Grouped, Shared
from penchant.data.webdataset import IMAGES


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a published data set.

    Attributes:
        name: Name of the data set.
        columns: What is read of them.
        source: Where the columns are described.
        lists: Columns that hold lists here, and single values in another layout.
        absent: Columns that no row may have, because they would say what was preferred.
    """

    name: str
    columns: Columns
    source: str
    lists: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def fits(self, table: Table) -> bool:
        """True if a table has these columns."""
        wanted = (*self.columns.light, *self.columns.images)
        return set(wanted) <= set(table.names) and all(table.has_list(name) for name in self.lists)


_HPDV2 = "Wu et al. 2023, arXiv:2306.09341, and the card of ymhao/HPDv2"
_IMAGE_REWARD = "Xu et al. 2023, arXiv:2304.05977, and the loader of THUDM/ImageRewardDB"

PUBLISHED: Final = (
    Layout(
        "HPDv2, train",
        Columns(prompt="prompt", images=("file_path",), scores=("human_preference",)),
        _HPDV2,
        lists=("file_path", "human_preference"),
    ),
    Layout(
        "HPDv2, train, with the path of the image called as in its test split",
        Columns(prompt="prompt", images=("image_path",), scores=("human_preference",)),
        _HPDV2,
        lists=("image_path", "human_preference"),
    ),
    Layout(
        "HPDv2, test",
        Columns(prompt="prompt", images=("image_path",), ranks=("rank",)),
        _HPDV2,
        lists=("image_path", "rank"),
    ),
    Layout(
        "HPDv3",
        Columns(prompt="prompt", images=("path1", "path2")),
        "UNVERIFIED: other readers of MizzenAI/HPDv3 take path1 for the preferred image",
    ),
    Layout(
        "ImageRewardDB, {n}k_pair",
        Columns(prompt="prompt", images=("img_better", "img_worse")),
        _IMAGE_REWARD,
    ),
    Layout(
        "ImageRewardDB, {n}k_group",
        Columns(prompt="prompt", images=("image",), ranks=("rank",)),
        _IMAGE_REWARD,
        lists=("image", "rank"),
    ),
    Layout(
        "ImageRewardDB, {n}k",
        Columns(prompt="prompt", images=("image",), ranks=("rank",), group="prompt_id"),
        _IMAGE_REWARD,
    ),
    Layout(
        "ImageRewardDB, metadata-{split}.parquet with zip files of images",
        Columns(prompt="prompt", images=("image_path",), ranks=("rank",), group="prompt_id"),
        _IMAGE_REWARD,
    ),
    Layout(
        "open-image-preferences-v1-binarized",
        Columns(prompt="prompt", images=("chosen", "rejected")),
        "UNVERIFIED: other readers of data-is-better-together/open-image-preferences-v1-binarized",
    ),
)


def _webdataset(prompt: str) -> tuple[Layout, ...]:
    """The layouts of tar files by what says which image is preferred; without any, the best comes first."""
    judged = {
        "scores": Columns(prompt=prompt, images=(IMAGES,), scores=("scores",)),
        "ranks": Columns(prompt=prompt, images=(IMAGES,), ranks=("ranks",)),
        "votes": Columns(prompt=prompt, images=(IMAGES,), votes=("votes",)),
        "winner": Columns(prompt=prompt, images=(IMAGES,), winner="winner"),
    }
    best_first = Columns(prompt=prompt, images=(IMAGES,))
    return (
        *(Layout(f"WebDataset with {name}", columns, "docs/data.md") for name, columns in judged.items()),
        Layout("WebDataset, best first", best_first, "docs/data.md", absent=tuple(judged)),
    )


WEBDATASET: Final = (*_webdataset("prompt"), *_webdataset("txt"))


def layout_of(table: Table, layouts: Sequence[Layout] = PUBLISHED) -> Layout | None:
    """The first of some layouts that a table has; None if it has none of them."""
    return next((layout for layout in layouts if layout.fits(table)), None)


def grouped(table: Table, columns: Columns, shared: Shared) -> Table:
    """The table, its rows joined if `columns` says so."""
    if columns.group is None:
        return table
    same = [name for name in (columns.prompt, columns.split) if name is not None]
    return Grouped(table, columns.group, same, shared)
