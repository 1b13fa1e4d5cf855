"""Pictures as people have them, into training data: `load` decodes a folder or zip once; `check`, `prepare`, `get`: `handful data`."""

from handful.data.checking import Report, check
from handful.data.dataset import Dataset
from handful.data.loading import Scan, load, scan
from handful.data.problems import Problem
from handful.data.records import get
from handful.data.sampler import Sampler
from handful.data.sources import exists, locate, stem, test_of
from handful.data.writing import Prepared, prepare

__all__ = ["Dataset", "Prepared", "Problem", "Report", "Sampler", "Scan", "check", "exists", "get", "load", "locate", "prepare", "scan", "stem",
           "test_of"]
