"""Published rows that no recipe of this version can run, and what they wait for."""

from __future__ import annotations

from . import _diffaugment

TARGETS = tuple(_diffaugment.pretrained())
