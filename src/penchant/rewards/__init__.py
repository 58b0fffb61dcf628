"""Rewards: callables that score images for their prompts; higher is better. One module per reward.

The constant REWARD of a module is a frozen dataclass; its fields are its options.
"""

from penchant.catalog import Catalog

catalog = Catalog(__name__, __path__, constant="REWARD")
