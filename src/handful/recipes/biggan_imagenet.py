"""BigGAN on ImageNet at 128 pixels as DiffAugment trains it in compare_gan: batch 2048, two D steps, 250k iterations on a TPU pod.

With the policy translation, which fills with black; the rows without it are --set augment=none. As released: zeros between the pixels where G
upsamples, batch norm's scale without "1 +", eps 1e-5 and statistics over all processes; spectral norm that iterates in evaluation too, its
sqrt(max(sum v^2, 1e-12)) being eps 1e-6 on the norm; in D plain shortcuts, none in the last block, the matrix of classes by Glorot's rule, images in
[0, 1] (D converts them), fakes and reals in one pass. In G's step D sees the fakes alone: without batch statistics they are judged as beside reals,
and spectral norm iterates once all the same. Images are cropped at random sizes about the centre and resized without antialiasing; what is scored
against is the largest square. Subsets are the first N in the order of names. Samples are scored unrounded, with batch statistics accumulated over
3200 batches of 64; a shortened run (`handful reproduce --scale S`) takes 3200 S of them, 8 or more: 32 at a hundredth.

Differs from the release:
- The crop's size is drawn for each image once, by the seed: images are decoded once. There it is drawn anew in every epoch.
- The first N are the release's only where names follow its records' order; of a folder per class they are the first classes, which is refused as
  soon as a class has no image. Then --set data.subset=drawn takes N at random.
- Images are rounded to 8 bits after resizing, the reals of the scores too. Classes of samples are those of random scored reals, there uniform; the
  validation images have 50 of each.
- Reals are shuffled as a whole, not in a buffer of 100,000; G's step draws no reals (there they pass D and are not used).
- D's first block begins without ReLU, which does nothing on images in [0, 1]; its 1x1 shortcuts run after the pooling, not before (they commute).
- The first layer's outputs are ordered channel, row, column, not row, column, channel: a permutation, of interest to an importer alone.
- Batch norm's variance is a mean of squared deviations (torch), not E[x^2] - E[x]^2: the same but for rounding.
- Spectral norm's vectors in evaluation begin five iterations beyond the raw weights' (training/ema.py), so that few batches of statistics are sound
  too; after 3200 they have converged either way. Since they go on iterating, a picture of a seed is the same to rounding, not bit for bit.
- Adam's eps is added after the correction of the bias (torch), not before: it matters while second moments are as small as eps^2.
- `handful reproduce` computes in fp32; there variables are float32, and products very probably bfloat16.
"""

from __future__ import annotations

from typing import Any

from . import _diffaugment
from ._biggan import biggan

TARGETS = _diffaugment.imagenet()


def recipe(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    tree = biggan(resolution or 128, iterations=250_000, batch=2048, d_steps=2, lr=(1e-4, 4e-4), policy="translation", ema_start=40_000,
                  evaluate_every=2000, samples=50_000, joint=True, statistics="standing",
                  g={"sync_batch_norm": True, "gain": "bare", "up": "zeros", "bn_eps": 1e-5, "sn_eps": 1e-6, "sn_iterates": "always"},
                  d={"skip": "plain", "skip_equal": False, "class_init": "glorot", "image_range": "0..1", "sn_eps": 1e-6,
                     "sn_iterates": "always"})
    tree["data"] |= {"fit": "zoomed", "filter": "bilinear_tf1", "subset": "first"}
    tree["augment"]["translation_fill"] = -1.0
    tree["ema"] |= {"standing_batches": 3200, "standing_batch": 64, "standing_rule": "accumulated"}
    tree["evaluate"]["rounded"] = False
    return tree
