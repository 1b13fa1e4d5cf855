"""The feature networks beside Inception: one interface, wiring on made-up weights, and EfficientNet where it is cached (never downloaded).

About 12 s on one core, 2 s of them on pretrained weights. VGG16's and DINOv2's weights are in no registry: theirs are made up here, and
what the tests show is shape and wiring alone.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from handful import fetch
from handful.cli.weights import command
from handful.errors import HandfulError, HandfulWarning, UsageError
from handful.features import Inception, _sources, _table, available, weights
from handful.features._table import Entry, File, Origin
from handful.features.dinov2 import DINOv2
from handful.features.efficientnet import EfficientNet, _same
from handful.features.extractor import Extractor, extractor, names
from handful.features.lpips import LPIPS
from handful.features.resize import pillow_bicubic
from handful.features.vgg16 import LPIPSVGG16, VGG16

DATA = Path(__file__).parents[1].parent / "shared" / "data"
CLASSES = {"inception": Inception, "vgg16": VGG16, "dinov2": DINOv2, "efficientnet": EfficientNet, "lpips_vgg16": LPIPSVGG16}
cached = pytest.mark.skipif(not available("efficientnet"), reason="the pretrained weights are absent: handful weights get efficientnet")


@pytest.fixture(scope="module")
def made_up():
    torch.manual_seed(0)
    return {name: cls() for name, cls in CLASSES.items()}


def pictures(n: int, size: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (n, 3, size, size)).astype(np.uint8))


def test_every_network_is_listed():
    assert set(names()) == set(CLASSES) and {weights.entry_of(name) for name in names()} <= set(weights.names())


@pytest.mark.parametrize("name", CLASSES)
def test_one_interface(made_up, name, monkeypatch):
    net, images = made_up[name], pictures(2)
    features = net(images)
    assert isinstance(net, Extractor) and net.name == name and str(net.resize)
    assert features.shape == (2, net.dim) and features.dtype == torch.float32 and not features.requires_grad
    assert features.isfinite().all() and (features[0] != features[1]).any()
    monkeypatch.setattr(net, "batch", 1)
    torch.testing.assert_close(net(images.double()), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(images[:1, :1]), net(images[:1, :1].repeat(1, 3, 1, 1)))
    assert net(images[:0]).shape == (0, net.dim)
    assert not any(m.training for m in torch.nn.Sequential(net).train()[0].modules())
    assert not any(p.requires_grad for p in net.requires_grad_().parameters())
    with pytest.raises(UsageError, match=f"{name} takes images"):
        net(torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("name", CLASSES)
def test_maps_are_those_of_the_named_stages(made_up, name):
    """At the image's own size, in the precision of the run, with a gradient to the image, and no further than what is wanted."""
    net, side = made_up[name], {"inception": 107, "dinov2": 42}.get(name, 64)
    images = (torch.randn(2, 1, side, side).clamp(-1, 1) * 0.5).requires_grad_()
    maps = net.maps(images, net.stages)
    assert list(maps) == list(net.stages)
    for stage, (channels, stride) in net.stages.items():
        assert maps[stage].shape[:2] == (2, channels) and maps[stage].dtype == torch.float32
        less = 3 if name == "inception" else 0                # it has no padding in its first layers
        assert side // stride - less <= maps[stage].shape[2] == maps[stage].shape[3] <= -(-side // stride)
    first, last = list(net.stages)[0], list(net.stages)[-1]
    assert torch.autograd.grad(maps[last].float().square().sum(), images)[0].abs().amax((1, 2, 3)).min() > 0
    went = []
    hooks = [m.register_forward_hook(lambda *_: went.append(1)) for m in net.modules()]
    assert torch.equal(net.maps(images, [first])[first], maps[first])
    few = len(went)
    net.maps(images, [last])
    assert few < len(went) - few and [h.remove() for h in hooks]
    with torch.autocast("cpu", torch.bfloat16):
        assert net.maps(images, [first])[first].dtype == torch.bfloat16
    with pytest.raises(UsageError, match=f"{name} has no stage 'x'"):
        net.maps(images, ["x"])
    with pytest.raises(UsageError, match="images|image"):
        net.maps(images.expand(-1, 2, -1, -1), [first])


def test_the_vector_is_made_of_the_last_map(made_up):
    x = torch.rand(2, 3, 224, 224) * 2 - 1
    net = made_up["efficientnet"]
    pooled = net.head(net.maps(x, ["stage7"])["stage7"]).clamp(0, 6).mean((2, 3))
    torch.testing.assert_close(pooled, net((x + 1) * 127.5), rtol=1e-4, atol=1e-5)
    net, x = made_up["inception"], torch.rand(2, 3, 299, 299) * 2 - 1
    torch.testing.assert_close(net.maps(x, ["block11"])["block11"].mean((2, 3)), net((x + 1) * 127.5), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not available("lpips"), reason="the pretrained weights are absent: handful weights get lpips")
def test_lpips_s_vgg16_has_the_layers_of_lpips():
    """The same convolutions and the same scaling of the input as in the distance itself, each layer averaged over space."""
    images = pictures(2, 64)
    net, lpips = extractor("lpips_vgg16"), LPIPS.load()
    layers = lpips._features(images.float() / 127.5 - 1)
    torch.testing.assert_close(net(images), torch.cat([x.mean((2, 3)) for x in layers[2:]], 1), rtol=1e-3, atol=1e-4)
    assert net.dim == 1280 and net.digest != weights.ENTRIES["lpips"].digest[:16] and not any("heads" in name for name in net.state_dict())
    for size, seen in ((20, 32), (300, 224)):
        images = pictures(2, size)
        torch.testing.assert_close(net(images), net(pillow_bicubic(images.float(), seen)))
    wide = pictures(2, 80)[:, :, :48]
    torch.testing.assert_close(net(wide), net(pillow_bicubic(wide.float(), 80)))


def test_the_digest_stands_for_the_weights(made_up):
    net = DINOv2()
    assert len(net.digest) == 16 and net.digest != made_up["dinov2"].digest
    again = DINOv2()
    again.load_state_dict(net.state_dict())
    assert again.digest == net.digest


def test_precision_settings_are_left_as_they_were(made_up):
    torch.set_float32_matmul_precision("medium")
    try:
        made_up["efficientnet"](pictures(1))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_names_and_absent_weights(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="no feature network 'inceptoin'; did you mean 'inception'"):
        extractor("inceptoin")
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    for name in names():
        with pytest.raises(HandfulError, match=f"handful weights get {weights.entry_of(name)}$") as caught:
            extractor(name)
        assert "\n" not in str(caught.value)


# --- VGG16 ---


def standardised(x: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x / 255 - mean[:, None, None]) / std[:, None, None]


def test_vgg16_is_its_definition(made_up):
    net, images = made_up["vgg16"], pictures(1, 224)
    x = standardised(images.float())
    for i, conv in enumerate(net.convs):
        if i in (2, 4, 7, 10):
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=1))
    x = F.max_pool2d(x, 2)
    assert x.shape == (1, 512, 7, 7)
    for layer in net.fc:
        x = F.relu(x.reshape(1, -1) @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(images), x, rtol=1e-3, atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) == 138_357_544 - (4096 + 1) * 1000  # torchvision's, without the logits


def test_vgg16_from_torchvisions_names(tmp_path):
    numbers = 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28  # of its convolutions; ReLUs and pools count too
    state = {f"features.{n}.{kind}": torch.full((1,), i + 0.5 * (kind == "bias")) for i, n in enumerate(numbers) for kind in ("weight", "bias")}
    state |= {f"classifier.{n}.{kind}": torch.full((1,), 100.0 + n) for n in (0, 3, 6) for kind in ("weight", "bias")}
    torch.save(state, tmp_path / "vgg16.pth")
    found = _sources.vgg16_torch(tmp_path / "vgg16.pth")
    with torch.device("meta"):
        assert set(found) == set(VGG16().state_dict())
    assert found["convs.12.bias"] == 12.5 and found["fc.0.weight"] == 100 and found["fc.1.bias"] == 103


# --- DINOv2 ---


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    return (a + 2) * t**3 - (a + 3) * t**2 + 1 if t < 1 else a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def test_dinov2_positions_are_interpolated_as_released(made_up):
    net = made_up["dinov2"]
    assert net.positions(37) is net.pos_embed
    found = net.positions(16)
    assert found.shape == (1, 257, 384)
    torch.testing.assert_close(found[:, 0], net.pos_embed[:, 0])
    matrix = np.zeros((16, 37))
    for i in range(16):
        source = (i + 0.5) * 37 / 16.1 - 0.5
        for k in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
            matrix[i, np.clip(k, 0, 36)] += cubic(source - k)
    grid = net.pos_embed[0, 1:].reshape(37, 37, 384).double().numpy()
    expected = np.einsum("ip,jq,pqc->ijc", matrix, matrix, grid)
    np.testing.assert_allclose(found[0, 1:].reshape(16, 16, 384).numpy(), expected, atol=1e-5)


def test_dinov2_is_its_definition(made_up):
    torch.manual_seed(1)
    net, images = made_up["dinov2"], pictures(1, 224)
    for block in net.blocks:
        block.ls1.uniform_(0.2, 1)
        block.ls2.uniform_(0.2, 1)
    p = {name: tensor.double() for name, tensor in net.state_dict().items()}
    norm = lambda x, name: F.layer_norm(x, (384,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)
    linear = lambda x, name: x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
    patches = standardised(images.double()).unfold(2, 14, 14).unfold(3, 14, 14)  # [1,3,16,16,14,14]
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(1, 256, 588) @ p["patch.weight"].reshape(384, 588).T + p["patch.bias"]
    x = torch.cat([p["cls_token"], patches], 1) + net.positions(16).double()
    for i in range(12):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.qkv").split(384, 2)
        heads = []
        for h in range(6):
            part = slice(64 * h, 64 * h + 64)
            heads.append((q[..., part] @ k[..., part].mT / 8).softmax(-1) @ v[..., part])
        x = x + p[f"blocks.{i}.ls1"] * linear(torch.cat(heads, 2), f"blocks.{i}.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + p[f"blocks.{i}.ls2"] * linear(hidden, f"blocks.{i}.fc2")
    torch.testing.assert_close(net(images).double(), norm(x, "norm")[:, 0], rtol=1e-4, atol=1e-4)


def test_dinov2_from_the_released_names(tmp_path):
    state = {"cls_token": (1, 1, 384), "pos_embed": (1, 1370, 384), "mask_token": (1, 384), "norm.weight": (384,), "norm.bias": (384,)}
    state |= {"patch_embed.proj.weight": (384, 3, 14, 14), "patch_embed.proj.bias": (384,)}
    for i in range(12):
        layers = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
        for layer, shape in (layers | {"norm1": (384,), "norm2": (384,)}).items():
            state |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
        state |= {f"blocks.{i}.ls1.gamma": (384,), f"blocks.{i}.ls2.gamma": (384,)}
    torch.save({name: torch.zeros(shape) for name, shape in state.items()}, tmp_path / "dinov2.pth")
    found = _sources.dinov2_torch(tmp_path / "dinov2.pth")
    DINOv2().load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})
    assert sum(array.size for array in found.values()) == 22_056_576 - 384  # all that is released, without the mask token


# --- EfficientNet-Lite0 ---


def test_efficientnet_is_its_definition(made_up):
    """Against plain TensorFlow padding: SAME pads so that the output has ceil(n / stride) pixels, the odd pixel last."""

    def conv(x, layer, stride=1):
        k, n = layer.weight.shape[-1], x.shape[-1]
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, layer.weight, layer.bias, stride, groups=layer.groups)

    net, images = made_up["efficientnet"], pictures(1, 224)
    x, sizes = F.relu6(conv((images.float() - 127) / 128, net.stem, 2)), []
    for i, block in enumerate(net.blocks):
        y = x if i == 0 else F.relu6(conv(x, block.expand))
        y = conv(F.relu6(conv(y, block.depthwise, 2 if i in (1, 3, 5, 11) else 1)), block.project)
        x = x + y if i in (2, 4, 6, 7, 9, 10, 12, 13, 14) else y
        sizes.append(tuple(x.shape[1:3]))
    assert [sizes[i] for i in (0, 2, 4, 7, 10, 14, 15)] == [(16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (192, 7), (320, 7)]
    expected = F.relu6(conv(x, net.head)).mean((2, 3))
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    assert net.logits(expected).shape == (1, 1000) and _same(torch.zeros(1, 1, 8, 8), 5).shape[2:] == (11, 11)


@cached
def test_efficientnet_values_of_an_independent_implementation():
    """The constants came from efficientnet-lite-pytorch 0.1.0, given this very array at 224 pixels, scaled as (x - 127) / 128."""
    before = torch.get_rng_state()
    with torch.inference_mode():
        net = extractor("efficientnet")
    assert not net.stem.weight.is_inference()
    assert torch.equal(torch.get_rng_state(), before) and not any(p.requires_grad for p in net.parameters())
    assert net.stem.weight.is_contiguous(memory_format=torch.channels_last)
    y, x = np.mgrid[:224, :224]
    image = torch.from_numpy(np.stack([(3 * x + 2 * y) % 256, x * y // 64 % 256, abs((x + y) % 200 - 100) * 2]).astype(np.uint8))[None]
    logits = net.logits(net(image))
    expected = [-0.524942, -1.266725, -0.593064, -0.387388, -0.734385, -2.111188, -1.232425, -1.048034]
    np.testing.assert_allclose(logits[0, ::125].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert net.digest == weights.ENTRIES["efficientnet"].digest[:16]


@cached
@pytest.mark.parametrize(
    ("file", "classes"), [("panda-faces-100.zip", [388]), ("cat-faces-270.zip", range(281, 288))], ids=["giant panda", "cats (tabby ... lynx)"]
)
def test_efficientnet_knows_what_it_sees(file, classes):
    if not (DATA / file).is_file():
        pytest.skip(f"{file} is not beside the checkout")
    with zipfile.ZipFile(DATA / file) as archive:
        members = [m for m in archive.namelist() if m.lower().endswith((".jpg", ".jpeg", ".png"))][:20]
        images = [np.array(Image.open(io.BytesIO(archive.read(m))).convert("RGB")) for m in members]
    net = extractor("efficientnet")
    seen = net.logits(net(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))).argmax(1)
    assert np.isin(seen.numpy(), list(classes)).mean() >= 0.9


def test_resized_to_224(made_up):
    images = pictures(1, 300)
    for name in ("vgg16", "dinov2", "efficientnet"):
        torch.testing.assert_close(made_up[name](images), made_up[name](pillow_bicubic(images.float(), 224)), rtol=1e-4, atol=1e-5)


# --- entries whose numbers nobody here has seen ---


def read(path: Path) -> dict[str, np.ndarray]:
    return load_file(path)


def test_an_entry_without_a_digest_is_checked_by_what_was_stored(monkeypatch, tmp_path):
    save_file({"a": np.arange(5, dtype="f4")}, tmp_path / "origin.bin")
    files = (File("origin.bin", fetch.sha256_of(tmp_path / "origin.bin"), "http://127.0.0.1:9/origin.bin"),)
    entries = {"toy": Entry("a toy", "CC0", "", (Origin(files, read),)), "other": Entry("one more", "CC0", "", (Origin(files, read),))}
    for module in (weights, _table):
        monkeypatch.setattr(module, "ENTRIES", entries)
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    path = weights.get("toy", source=tmp_path / "origin.bin")
    with pytest.warns(HandfulWarning, match=re.escape(f"'toy' are unverified, since no digest of them is known: figures rest on {path} (sha256 "
                                                      f"{fetch.sha256_of(path)})")):
        np.testing.assert_array_equal(weights.load("toy")["a"], np.arange(5))
    path.rename(tmp_path / "toy.safetensors")
    weights.get("toy", source=tmp_path / "toy.safetensors")  # what was made before is taken as it is
    assert "unverified" in CliRunner().invoke(command, ["list"]).output
    result = CliRunner().invoke(command, ["get", "all", "--offline"])  # one is here, the other can't be had: both are tried
    assert "toy.safetensors" in result.output and "not on this machine yet: other;" in str(result.exception)
    save_file({"a": np.arange(1, 6, dtype="f4")}, tmp_path / "forged.safetensors")
    with pytest.raises(HandfulError, match="not the weights 'toy'"):
        weights.get("toy", source=tmp_path / "forged.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(HandfulError, match="damaged.*handful weights get toy"):
        weights.load("toy")
