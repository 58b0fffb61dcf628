"""Settings that hold for every test, and the tiny model and data that tests of training share."""

from functools import cache

import pytest
from hypothesis import settings
from tests import small

settings.register_profile("penchant", deadline=None, derandomize=True)
settings.load_profile("penchant")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a random Stable Diffusion of 16 x 16 px; read only."""
    from penchant.families import tiny

    return tiny.stable_diffusion(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Folder of a random model of each family by the family's name, made when it is asked for; read only."""
    from penchant.families import tiny

    builders = {
        "sd15": tiny.stable_diffusion,
        "sdxl": tiny.stable_diffusion_xl,
        "sdxl_refiner": tiny.stable_diffusion_xl_refiner,
        "sd3": tiny.stable_diffusion_3,
        "flux": tiny.flux,
        "sana": tiny.sana,
        "z_image": tiny.z_image,
        "wan": tiny.wan,
    }
    return cache(lambda name: builders[name](tmp_path_factory.mktemp("model") / name))


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory):
    """Parquet of 12 train, 4 validation and 4 test pairs in Pick-a-Pic's columns; bright is preferred."""
    return small.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.parquet")


@pytest.fixture(scope="session")
def tiny_lists(tmp_path_factory):
    """Parquet of 8 ranked lists of three or four candidates in the library's own columns."""
    return small.write_lists(tmp_path_factory.mktemp("lists") / "lists.parquet")


@pytest.fixture
def options(tiny_model, tiny_pairs, tmp_path):
    """A run file as plain values, changed by dotted names: `options(**{"training.steps": 3})`."""

    def build(**changes):
        return small.run_options(tiny_model, tiny_pairs, tmp_path / "out", changes)

    return build


@pytest.fixture(scope="session")
def launcher():
    """Starts `penchant` in processes of its own."""
    return small.Launcher()
