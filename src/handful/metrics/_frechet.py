"""The Frechet distance of two Gaussians without a complex matrix square root."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ._stats import Moments


class Gaussian:
    """Mean and covariance of a set of features, in fp64, as a covariance or, with fewer rows than dimensions, as the rows
    themselves."""

    def __init__(self, source: Tensor | Moments, ddof: int = 0, device: torch.device | str = "cpu") -> None:
        """source: features [N,D] or their moments. ddof 0: the covariance is divided by N, 1: by N - 1."""
        device = torch.device("cpu" if torch.device(device).type == "mps" else device)      # no fp64 there
        self.rows: Tensor | None = None                      # [N,D] with rows^T rows = covariance
        if isinstance(source, Tensor) and len(source) < source.shape[1]:
            x = source.to(device, torch.float64)
            self.mean = x.mean(0)
            self.rows = (x - self.mean) / (len(x) - ddof) ** 0.5
        else:
            moments = Moments.of(source, device) if isinstance(source, Tensor) else source
            self.mean, self._covariance = moments.mean.to(device), moments.covariance(ddof).to(device)

    @cached_property
    def covariance(self) -> Tensor:
        return self._covariance if self.rows is None else self.rows.T @ self.rows

    @property
    def trace(self) -> Tensor:
        return self._covariance.trace() if self.rows is None else self.rows.square().sum()

    @cached_property
    def factor(self) -> Tensor:
        """F [D,K] with F F^T = covariance."""
        if self.rows is not None:
            return self.rows.T
        values, vectors = torch.linalg.eigh(self._covariance)
        real = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps    # what is left is rounding
        return vectors[:, real] * values[real].sqrt()


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ..." (NIPS 2017),
    eq. 6.

    With A = F F^T the eigenvalues of A B are those of the symmetric F^T B F, so their roots are real whatever the rank of A and B:
    no square root of a matrix is taken. With rows G^T G = B they are the squared singular values of G F, which keeps all digits.
    """
    if b.rows is not None and (a.rows is None or len(b.rows) < len(a.rows)):
        a, b = b, a
    f = a.factor
    if f.shape[1] == 0:
        root = torch.zeros((), dtype=f.dtype, device=f.device)
    elif b.rows is not None:
        root = torch.linalg.svdvals(b.rows @ f).sum()
    else:
        root = torch.linalg.eigvalsh(f.T @ b.covariance @ f).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * root
    return max(float(distance), 0.0)
