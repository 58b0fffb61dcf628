"""What one training example is: the first factor of every method."""

import enum


class Shape(enum.Enum):
    """Data shape of a method: how the K candidates of one prompt relate.

    PAIR: two candidates, column 0 is the winner. RANKED: K candidates, best first.
    UNARY: one candidate and its label.
    """

    PAIR = "pair"
    RANKED = "ranked"
    UNARY = "unary"
