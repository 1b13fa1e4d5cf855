"""Products between all images of two sets, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def rows_that_fit(columns: int, like: Tensor, memory_mb: int) -> int:
    """Rows of a block with so many columns, for about four copies of it in memory at once."""
    return max(1, (memory_mb << 20) // (4 * like.element_size() * max(columns, 1)))


@contextmanager
def exact_products() -> Iterator[None]:
    """fp32 products in full precision, whatever a training loop has set (TF32 has 10 bits)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
