"""Names of protocols, as the papers write them: the name fixes the number of samples, which reals, mirror images, the network.

    fid50k_full  kid50k_full  pr50k3_full  is50k  ppl2_wend         StyleGAN2-ADA: all reals, no mirror images
    fid50k  kid50k  pr50k3                                          older: the same number of reals at most, mirrored as in training
    fid10k_test  fid10k_train  is10k                                DiffAugment, DigGAN: BigGAN on CIFAR
    fid5k_train                                                     DiffAugment, FastGAN: few-shot sets
    fid_test                                                        DigGAN in StudioGAN: as many samples as there are reals
    ppl_zfull  ppl_wfull  ppl_zend  ppl_wend                        StyleGAN: the centre of the picture

Other numbers are read likewise: kid5k_full. `train` and `test` divide FID's covariance by n - 1, as those papers' code does; `full`
by n. Deviations: "the first 50000 reals" are a random choice (files are often sorted by class). BigGAN's, DiffAugment's, DigGAN's and
FastGAN's own code sampled with the batch statistics of the moment: here it is the model's configuration (evaluate.statistics) that
says so, or --statistics batch. FastGAN's resized to 512, 256 and 299 pixels in turn; here resizing is the network's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .. import catalog
from ..catalog import Use
from ..errors import UsageError, nearest

if TYPE_CHECKING:                        # names are listed without torch
    from ._metric import Metric

NAMED = ("fid50k_full", "kid50k_full", "pr50k3_full", "is50k", "ppl2_wend", "fid10k_test", "fid10k_train", "is10k", "fid5k_train", "fid_test")
_COUNTED = re.compile(r"(fid|kid|is|pr)(\d+)k(3?)(?:_(full|train|test))?")
_AS_MANY = ("fid_test", "fid_train")     # as many samples as there are reals, 5000 or more
FRESH = 1_000_000                        # from this seed on: samples of figures that are reported, by which nothing is chosen
REPORTED, SETS = 2000, 5                 # samples of such a figure; disjoint sets of them, for KID's standard error
_PATHS = re.compile(r"ppl(2?)_([zw])(end|full)")


def resolve(name: str) -> Metric:
    """The metric of a name: a file of this folder at its defaults, or a protocol. Raises UsageError with the nearest name."""
    if name in catalog.names("metrics") or ":" in name or "." in name:
        return catalog.build("metrics", Use(name))
    use = protocol(name)
    if use is None:
        raise unknown(name)
    return catalog.build("metrics", use)


def reported_metric(name: str) -> Metric:
    """A plain metric of features as figures are reported: `evaluate(..., reported=True)`. Raises UsageError for other metrics and for protocols,
    which fix the samples themselves."""
    found = resolve(name)
    if protocol(name) or found.alone or found.takes[1] == "splits":
        raise UsageError(f"--reported takes fid, kid, precision, recall, density and coverage, not '{name}'; leave it out")
    return catalog.build("metrics", Use(name, samples=REPORTED, **({"way": "pairs", "sets": SETS} if name == "kid" else {})))


def unknown(name: str) -> UsageError:
    return UsageError(f"unknown metric '{name}'{nearest(name, [*catalog.names('metrics'), *NAMED])}")


def protocol(name: str) -> Use | None:
    """What the name of a protocol stands for, None where it is none."""
    if match := _PATHS.fullmatch(name):
        whole, space, sampling = match.groups()
        return Use("ppl", samples=50_000, space=space, sampling=sampling, crop=not whole)
    if name in _AS_MANY:
        return Use("fid", ddof=1, reals=name.removeprefix("fid_"))
    match = _COUNTED.fullmatch(name)
    if match is None or (match[1] == "pr") != bool(match[3]) or match[1] == "is" and match[4] or not int(match[2]):
        return None
    kind, samples, which = match[1], int(match[2]) * 1000, match[4]
    if kind == "is":
        return Use("inception_score", samples=samples)
    common = {"samples": samples, "reals": which if which in ("train", "test") else "all"}
    if which is None:
        common |= {"max_reals": samples, "flips": "trained"}
    if kind == "fid":
        return Use("fid", ddof=int(which in ("train", "test")), **common)
    if kind == "kid":
        return Use("kid", way="subsets", **{"max_reals": 1_000_000, **common})
    return Use("precision", with_recall=True, extractor="vgg16", **{"max_reals": 200_000, **common})


def explained(name: str) -> dict[str, str]:
    """What a protocol stands for, in words: {"protocol", "metric", "samples", "reals", "network", more}. Raises UsageError for other names."""
    use, match = protocol(name), _COUNTED.fullmatch(name)
    if use is None:
        raise unknown(name)
    k = use.kwargs
    if match is None and use.name == "fid":
        which = "pictures the model never saw" if k["reals"] == "test" else "what the model was trained on"
        return {"protocol": f"{name}: Frechet inception distance, as in DigGAN's StudioGAN part", "metric": "fid", "reals": which,
                "samples": "as many as there are reals, 5000 to 50000", "covariance": "divided by n - 1", "network": "inception"}
    if use.name == "ppl":
        walk = "the whole way between two latents (t random)" if k["sampling"] == "full" else "the start of the way between two latents (t = 0)"
        crop = "the centre, where a face would be, then " if k["crop"] else ""
        return {"protocol": f"{name}: perceptual path length in {k['space']}, as StyleGAN{'' if k['crop'] else '2-ADA'} measures it", "metric": "ppl",
                "samples": f"{k['samples']} pairs at {walk}, a step of 1e-4 apart", "reals": "none",
                "pictures": f"{crop}blocks averaged to 256 pixels", "network": "lpips (VGG16)"}
    title = {"fid": "Frechet inception distance", "kid": "kernel inception distance", "is": "Inception Score", "pr": "precision and recall"}[match[1]]
    source = {"full": "StyleGAN2-ADA, InsGen", None: "StyleGAN, StyleGAN2 (older)", "train": "DiffAugment, FastGAN, DigGAN",
              "test": "DiffAugment, DigGAN"}
    found = {"protocol": f"{name}: {title}, as in {source[match[4]] if match[1] != 'is' else 'StyleGAN2-ADA, DiffAugment, DigGAN'}",
             "metric": use.name, "samples": f"{k['samples']}, of a model or a folder that has as many"}
    if match[1] == "is":
        return found | {"reals": "none", "network": "inception with its classes; 10 parts, their mean and deviation"}
    which = {"all": "all pictures of DATA", "train": "what the model was trained on (beside a folder: all of DATA)",
             "test": "pictures the model never saw: held out, or the test set that belongs to DATA"}
    most = f", at most {k['max_reals']} drawn at random" if k.get("max_reals") else ""
    mirrored = "; with their mirror images where the model was trained with them" if k.get("flips") == "trained" else "; no mirror images"
    found |= {"reals": which[k["reals"]] + most + mirrored}
    if match[1] == "fid":
        found |= {"covariance": "divided by n - 1" if k["ddof"] else "divided by n"}
    if match[1] == "kid":
        found |= {"subsets": "100 of 1000, fewer where there are fewer pictures; kernel (x.y/D + 1)^3"}
    if match[1] == "pr":
        found |= {"neighbours": "k = 3"}
    inception = "inception (2015), TensorFlow 1's bilinear resizing to 299 pixels"
    return found | {"network": "VGG16, its second dense layer" if match[1] == "pr" else inception}
