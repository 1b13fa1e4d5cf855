"""BigGAN on few images.

Brock, Donahue, Simonyan: Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019, as trained by DiffAugment's
release (CIFAR, ImageNet) and, in StudioGAN, by DigGAN's (Tiny-ImageNet, CUB-200). Iterations of the papers are those of G; kimg are iterations x
images of a batch x D steps / 1000.

Deviations: reals are not paired with a loader's batch of 200, they are drawn step by step; several GPUs were used with batch norm
of each for itself (25 images in G on CIFAR), here it spans the whole batch.
"""

from __future__ import annotations

from typing import Any


def biggan_cifar(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """BigGAN on CIFAR-10 and CIFAR-100 at 32 pixels as DiffAugment trains it: batch 50, four D steps, 250k iterations.

    With the policy translation and cutout; the rows without it are --set augment=none. G is averaged from iteration 1000 on; D sees
    fakes and reals in one pass; samples are scored with the statistics of their own batch. The release averages batch norm's statistics
    too, which that never uses; here samples outside of scores have statistics measured on the averaged generator (--set ema.buffers=ema: averaged).
    """
    return _biggan(resolution or 32, iterations=250_000, batch=50, d_steps=4, lr=(2e-4, 2e-4), policy="translation,cutout", ema_start=1000,
                   evaluate_every=4000, samples=10_000, joint=True)


def biggan_tiny(resolution: int | None = None, batch: int | None = None, **_: Any) -> dict[str, Any]:
    """BigGAN on Tiny-ImageNet at 64 pixels as in DigGAN's StudioGAN part: batch 1024 in two halves, one D step, 100k iterations.

    With DiffAugment's colour, translation and cutout; the rows without it are --set augment=none. D's shortcuts see relu(x), as its ReLU in place
    made them (--set d.skip=plain: the textbook's). The release trained in mixed precision, batch norm of 128 images, a GPU's share; here of the 512.
    """
    return _biggan(resolution or 64, iterations=100_000, batch=1024, micro_batch=512 if batch is None else None, d_steps=1, lr=(1e-4, 4e-4),
                   eps=1e-6, policy="color,translation,cutout", ema_start=20_000, evaluate_every=2000, samples=10_000)


def biggan_cub(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """BigGAN on CUB-200 at 128 pixels as in DigGAN's StudioGAN part: batch 32, two D steps, 200k iterations.

    With DiffAugment's colour, translation and cutout; the rows without it are --set augment=none. D's shortcuts see relu(x), as its ReLU in place
    made them (--set d.skip=plain: the textbook's). The release trained in mixed precision, batch norm of 8 images, a GPU's share, here of the 32; it
    cut its squares at random along the longer edge, here they are cut from the centre.
    """
    return _biggan(resolution or 128, iterations=200_000, batch=32, d_steps=2, lr=(5e-5, 2e-4), eps=1e-6, policy="color,translation,cutout",
                   ema_start=4000, evaluate_every=2000, samples=None)


def biggan_imagenet(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """BigGAN on ImageNet at 128 pixels as DiffAugment trains it in compare_gan: batch 2048, two D steps, 250k iterations on a TPU pod.

    With the policy translation, which fills with black; the rows without it are --set augment=none. As released: zeros between the pixels where G
    upsamples, batch norm's scale without "1 +", eps 1e-5 and statistics over all processes; spectral norm that iterates in evaluation too, its
    sqrt(max(sum v^2, 1e-12)) being eps 1e-6 on the norm; in D plain shortcuts, none in the last block, the matrix of classes by Glorot's rule, images
    in [0, 1] (D converts them), fakes and reals in one pass. In G's step D sees the fakes alone: without batch statistics they are judged as beside
    reals, and spectral norm iterates once all the same. Images are cropped at random sizes about the centre and resized without antialiasing; what is
    scored against is the largest square. Subsets are the first N in the order of names. Samples are scored unrounded, with batch statistics
    accumulated over 3200 batches of 64; a shortened run (`handful reproduce --scale S`) takes 3200 S of them, 8 or more: 32 at a hundredth.

    Differs from the release:
    - The crop's size is drawn for each image once, by the seed: images are decoded once. There it is drawn anew in every epoch.
    - The first N are the release's only where names follow its records' order; of a folder per class they are the first classes, which is refused as
      soon as a class has no image. Then --set data.subset=drawn takes N at random.
    - Images are rounded to 8 bits after resizing, the reals of the scores too. Classes of samples are those of random scored reals, there uniform;
      the validation images have 50 of each.
    - Reals are shuffled as a whole, not in a buffer of 100,000; G's step draws no reals (there they pass D and are not used).
    - D's first block begins without ReLU, which does nothing on images in [0, 1]; its 1x1 shortcuts run after the pooling, not before (they commute).
    - The first layer's outputs are ordered channel, row, column, not row, column, channel: a permutation, of interest to an importer alone.
    - Batch norm's variance is a mean of squared deviations (torch), not E[x^2] - E[x]^2: the same but for rounding.
    - Spectral norm's vectors in evaluation begin five iterations beyond the raw weights' (training/ema.py), so that few batches of statistics are
      sound too; after 3200 they have converged either way. Since they go on iterating, the image of a seed is the same to rounding, not bit for bit.
    - Adam's eps is added after the correction of the bias (torch), not before: it matters while second moments are as small as eps^2.
    - `handful reproduce` computes in fp32; there variables are float32, and products very probably bfloat16.
    """
    tree = _biggan(resolution or 128, iterations=250_000, batch=2048, d_steps=2, lr=(1e-4, 4e-4), policy="translation", ema_start=40_000,
                  evaluate_every=2000, samples=50_000, joint=True, statistics="standing",
                  g={"sync_batch_norm": True, "gain": "bare", "up": "zeros", "bn_eps": 1e-5, "sn_eps": 1e-6, "sn_iterates": "always"},
                  d={"skip": "plain", "skip_equal": False, "class_init": "glorot", "image_range": "0..1", "sn_eps": 1e-6,
                     "sn_iterates": "always"})
    tree["data"] |= {"fit": "zoomed", "filter": "bilinear_tf1", "subset": "first"}
    tree["augment"]["translation_fill"] = -1.0
    tree["ema"] |= {"standing_batches": 3200, "standing_batch": 64, "standing_rule": "accumulated"}
    tree["evaluate"]["rounded"] = False
    return tree


def biggan_32_narrow(resolution: int | None = None, **_: Any) -> dict[str, Any]:
    """BigGAN at 32 pixels, narrow: class-conditional images for machines without a GPU.

    A quarter of the width of biggan_cifar, a sixteenth of its work per image. For short runs one D step to one of G, with batches of 25, so that
    G moves often; D learns faster than G (4e-4 and 1.5e-4), since with equal rates so narrow a D told fakes from reals no more. The average of
    G starts short and lengthens with the run, as in handful's other narrow recipes. Chosen by eye and by D's logits on 5000 CIFAR-10 images.
    """
    tree = _biggan(resolution or 32, iterations=8000, batch=25, d_steps=1, lr=(1.5e-4, 4e-4), policy="translation,cutout", ema_start=0,
                  evaluate_every=800, samples=None, joint=True, statistics="standing")
    tree["g"]["width"] = tree["d"]["width"] = 16
    tree["ema"] = {"decay": None, "halflife_kimg": 5, "rampup": 0.05}
    tree["every"] = {"log_kimg": 0.5, "preview_kimg": 5, "checkpoint_kimg": 20}
    tree["evaluate"] = {}
    return tree


def _biggan(resolution: int, *, iterations: int, batch: int, d_steps: int, lr: tuple[float, float], policy: str, ema_start: int,
            evaluate_every: int, samples: int | None, eps: float = 1e-8, joint: bool = False, micro_batch: int | None = None,
            buffers: str = "standing", statistics: str = "batch", g: dict[str, Any] | None = None, d: dict[str, Any] | None = None) -> dict[str, Any]:
    """Hinge loss, Adam with betas (0, 0.999), uniform labels of fakes, mirrored reals, G averaged with 0.9999 per iteration.

    iterations, ema_start, evaluate_every: in iterations of G. lr: of G, of D. The networks are those of the architecture's table for the
    resolution; g, d: what they have besides.
    """
    kimg = batch * d_steps / 1000                         # of one iteration
    adam = {"betas": [0.0, 0.999], "eps": eps}
    return {
        "data": {"resolution": resolution, "flip": True, "labels": "auto"},
        "g": {"use": "biggan", "norm": "spectral"} | (g or {}),
        "d": {"use": "biggan", "norm": "spectral"} | (d or {}),
        "augment": {"use": "diffaug", "policy": policy},
        "loss": {"use": "hinge"},
        "optim_g": {"lr": lr[0], **adam},
        "optim_d": {"lr": lr[1], **adam},
        "ema": {"decay": 0.9999, "start_kimg": ema_start * kimg, "buffers": buffers},
        "train": {"kimg": iterations * kimg, "batch": batch, "micro_batch": micro_batch, "order": "dg", "d_steps": d_steps, "joint": joint,
                  "fake_labels": "classes"},
        "every": {"log_kimg": 4, "preview_kimg": evaluate_every * kimg, "checkpoint_kimg": evaluate_every * kimg},
        "evaluate": {"every_kimg": evaluate_every * kimg, "samples": samples, "statistics": statistics},
    }
