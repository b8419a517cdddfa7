"""How a page writes numbers."""

from decimal import ROUND_HALF_UP, Decimal


def fixed(value: float, digits: int) -> str:
    """A number as JavaScript's toFixed writes it: halves are rounded up."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
