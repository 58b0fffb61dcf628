"""Settings that hold for every test: hypothesis repeats its examples and has no time limit per example."""

from hypothesis import settings

settings.register_profile("penchant", deadline=None, derandomize=True)
settings.load_profile("penchant")
