"""Rewards: callables that score images for their prompts; higher is better. One module per reward."""

from penchant.catalog import Catalog

catalog = Catalog(__name__, __path__, constant="REWARD")
