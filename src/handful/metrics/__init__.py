"""How good, how varied: FID, KID, Inception Score, precision and recall, density and coverage, path length, LPIPS.

`evaluate(model, data, metrics=["fid", "kid"])` makes one pass over the images for all of them. Each is also a class of its own, for
features from anywhere: `KID()(real_features, fake_features)`, tensors [N,D], returns {"value": ..., "stderr": ..., "protocol":
...}.
"""

from __future__ import annotations

from .._lazy import lazy

_class, _classes = lazy("metrics")


def __getattr__(name: str):
    if name == "evaluate":
        from ._evaluate import evaluate

        return evaluate
    return _class(name)


def __dir__() -> list[str]:
    return sorted(["evaluate", *_classes()])
