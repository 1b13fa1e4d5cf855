"""Pictures as people have them, into training data: `load` decodes a folder or zip once; `check`, `prepare`: `handful data`."""

from handful.data.checking import Report, check
from handful.data.dataset import Dataset
from handful.data.loading import Scan, load, scan
from handful.data.problems import Problem
from handful.data.sampler import Sampler
from handful.data.sources import locate
from handful.data.writing import Prepared, prepare

__all__ = ["Dataset", "Prepared", "Problem", "Report", "Sampler", "Scan", "check", "load", "locate", "prepare", "scan"]
