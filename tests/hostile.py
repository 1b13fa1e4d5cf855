"""Files that were made to do harm, each with the answer that it should get. Used by test_hostile_files.py."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from handful import config as config_module
from handful.training import checkpoint
from making import tiny_trainer

MARK = "was_here"
DEEP = "[" * 100_000
OUTSIDE = {"g": "subprocess:Popen", "d": "os.system", "augment": "builtins:exec", "loss": "subprocess:run", "terms.x": "handful.files:atomic"}


class Evil:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {MARK}",)


class Named:
    """Unpickled, it calls a function by its name."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.how = function, args

    def __reduce__(self) -> tuple:
        return self.how


def small_run(folder: Path) -> Path:
    """A run folder with one checkpoint and a model, of a small DCGAN: no class outside of the package."""
    trainer = tiny_trainer("data.resolution=32", 'g={"use": "dcgan", "width": 4, "z_dim": 8}', 'd={"use": "dcgan", "width": 4}', "terms={}",
                           dataset=_images())
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(config_module.dumps(trainer.config))
    checkpoint.save(folder, trainer.config, trainer.state_dict(), 3)
    checkpoint.save_model(folder / "model.safetensors", trainer.config, trainer.nets.G_ema, 0)
    return folder


def _images() -> Any:
    from making import noise_set

    return noise_set(8, resolution=32)


class Maker:
    """Hostile files from the sound ones of a run."""

    def __init__(self, run: Path, out: Path) -> None:
        self.out = out
        self.state = torch.load(run / "checkpoints" / "000000000.pt", weights_only=True)
        self.tree = json.loads(self.state["config"])
        self.tensors = {k: v.clone() for k, v in self.state["G_ema"].items()}
        self.first = next(k for k, v in self.tensors.items() if v.is_floating_point() and v.ndim == 4)
        out.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------------------- writing

    def model(self, name: str, tree: Any = None, tensors: dict | None = None, **metadata: str) -> Path:
        """A .safetensors with this configuration (a tree, or a text), tensors and metadata."""
        text = tree if isinstance(tree, str) else json.dumps(self.tree if tree is None else tree)
        path = self.out / f"{name}.safetensors"
        path.write_bytes(save(self.tensors if tensors is None else tensors, {"config": text, "images_seen": "0", **metadata}))
        return path

    def checkpoint(self, name: str, **parts: Any) -> Path:
        path = self.out / f"{name}.pt"
        torch.save({**self.state, **parts}, path)
        return path

    def raw(self, name: str, data: bytes) -> Path:
        path = self.out / name
        path.write_bytes(data)
        return path

    def changed(self, **settings: Any) -> dict:
        """The tree with settings by dotted path (two underscores for a dot)."""
        tree = json.loads(json.dumps(self.tree))
        for key, value in settings.items():
            *parents, last = key.split("__")
            node = tree
            for parent in parents:
                node = node[parent]
            node[last] = value
        return tree

    def naming(self, place: str, name: str) -> dict:
        """The tree with a class outside of the package in a place."""
        use = {"use": name, "args": ["touch", MARK]}
        return self.changed(**{"terms__x" if place == "terms.x" else place: use})

    def pickled(self, name: str, opcodes: bytes, storages: dict[str, bytes] | None = None, compress: bool = False) -> Path:
        """A zip as torch.save makes one, around any pickle."""
        path = self.out / f"{name}.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
            file.writestr("archive/data.pkl", opcodes)
            file.writestr("archive/byteorder", b"little")
            for key, data in (storages or {}).items():
                file.writestr(f"archive/data/{key}", data)
            file.writestr("archive/version", b"3\n")
        return path

    # ------------------------------------------------------------------------------------------------------- the files

    def names_code(self) -> Iterator[tuple[Path, str]]:
        """Configurations that name classes outside of the package, in each place and kind of file."""
        for place, name in OUTSIDE.items():
            tree = self.naming(place, name)
            yield self.model(f"code_{place}", tree), "names code outside"
            yield self.checkpoint(f"code_{place}", config=json.dumps(tree)), "names code outside"
        yield self.model("code_metric", self.changed(evaluate__metrics=["subprocess:Popen"])), "names code outside"
        yield self.model("code_metrics", self.changed(evaluate__metrics="kid,os.system")), "names code outside"
        yield self.model("code_text", self.changed(g="subprocess:Popen")), "names code outside"
        yield self.model("code_main", self.changed(g={"use": "handful.__main__:main"})), "names code outside"

    def configurations(self) -> Iterator[tuple[Path, str]]:
        """Configurations of another shape, of absurd numbers, that ask for networks without end."""
        texts = {"deep": DEEP, "deep_object": '{"a":' * 100_000, "no_json": "{", "list": "[]", "number": "7", "text": '"x"', "null": "null",
                 "empty": "",
                 "huge_int": '{"seed": ' + "9" * 5000 + "}", "huge_float": '{"seed": 1e999}', "nan": '{"seed": NaN}',
                 "infinity": '{"seed": -Infinity}',
                 "surrogate": '{"recipe": "\\ud800"}', "nul": '{"recipe": "\\u0000", "seed": -1}'}
        for name, text in texts.items():
            yield self.model(f"text_{name}", text), ""
        trees = {"side": {"data__resolution": 10**9}, "side_4097": {"data__resolution": 8192}, "side_negative": {"data__resolution": -32},
                 "side_text": {"data__resolution": "32 px"}, "sides": {"data__resolution": [32, 32, 32]}, "side_lists": {"data__resolution": [[32]]},
                 "side_other": {"data__resolution": 64}, "channels": {"data__channels": 2}, "channels_grey": {"data__channels": 1},
                 "classes": {"data__class_names": [str(i) for i in range(10_000)]}, "classes_kind": {"data__class_names": {"a": 1}},
                 "width": {"g__width": 10**9}, "width_zero": {"g__width": 0}, "width_negative": {"g__width": -4}, "width_large": {"g__width": 2**62},
                 "z": {"g__z_dim": 10**12}, "z_text": {"g__z_dim": "many"}, "z_list": {"g__z_dim": [8]},
                 "layers": {"g": {"use": "stylegan2", "mapping_layers": 10**9}}, "layers_65": {"g": {"use": "stylegan2", "mapping_layers": 65}},
                 "blocks": {"g": {"use": "r3gan", "blocks": 10**7}}, "other": {"g": {"use": "fastgan"}}, "unknown": {"g": {"use": "dcgam"}},
                 "path": {"g": {"use": "../../evil"}}, "slash": {"g": {"use": "arch/dcgan"}}, "helper": {"g": {"use": "_stylegan2"}},
                 "g_list": {"g": ["dcgan"]}, "g_use": {"g": {"use": 7}}, "g_unknown": {"g__evil": 1}, "terms_list": {"terms": ["r1"]},
                 "terms_name": {"terms": {"a b": {"use": "r1"}}}, "data_list": {"data": []}, "train_text": {"train": "long"},
                 "batch": {"train__batch": 0},
                 "kimg": {"train__kimg": "1e400"}, "format": {"format": 2}, "unknown_section": {"evil": {}}, "seed": {"seed": -1}}
        for name, changes in trees.items():
            yield self.model(f"tree_{name}", self.changed(**changes)), ""
        for name, seen in {"word": "many", "negative": "-1", "long": "9" * 5000, "float": "1e9"}.items():
            yield self.model(f"seen_{name}", images_seen=seen), "images_seen"
        path = self.out / "bare.safetensors"
        path.write_bytes(save(self.tensors))
        yield path, "no configuration of handful"

    def tensors_of_another_kind(self) -> Iterator[tuple[Path, str]]:
        one, rest = self.first, {k: v for k, v in self.tensors.items() if k != self.first}
        value = self.tensors[one]
        kinds = {"missing": rest, "extra": {**self.tensors, "evil": torch.zeros(3)}, "shape": {**rest, one: value[:-1].contiguous()},
                 "flat": {**rest, one: value.flatten()}, "half": {**rest, one: value.half()}, "double": {**rest, one: value.double()},
                 "int": {**rest, one: value.long()}, "bool": {**rest, one: value > 0}, "none": {},
                 "nan": {**rest, one: value.clone().fill_(float("nan"))}, "inf": {**rest, one: value.clone().index_fill_(0, torch.tensor([0]),
                                                                                                                         float("inf"))},
                 "minus_inf": {**rest, one: value.clone().fill_(-float("inf"))}}
        for name, tensors in kinds.items():
            said = "not finite" if name in ("nan", "inf", "minus_inf") else "the tensor"
            yield self.model(f"tensors_{name}", tensors=tensors), said
            yield self.checkpoint(f"tensors_{name}", G_ema=tensors), said

    def broken_safetensors(self) -> Iterator[tuple[Path, str]]:
        good = self.model("good").read_bytes()
        length = int.from_bytes(good[:8], "little")
        header = json.loads(good[8:8 + length])

        def with_header(name: str, text: bytes | str, size: int | None = None) -> tuple[Path, str]:
            text = text.encode() if isinstance(text, str) else text
            return self.raw(f"{name}.safetensors", struct.pack("<Q", len(text) if size is None else size) + text + good[8 + length:]), "damaged"

        for name, data in {"empty": b"", "byte": b"\0", "length": good[:8], "cut_header": good[:40], "cut_data": good[:-10],
                           "zeros": bytes(1000)}.items():
            yield self.raw(f"st_{name}.safetensors", data), "damaged"
        yield with_header("st_size_max", b"{}", 2**64 - 1)
        yield with_header("st_size_large", b"{}", 2**40)
        yield with_header("st_deep", DEEP)
        yield with_header("st_no_json", b"\xff\xfe")
        first = {k: dict(v) for k, v in header.items() if k != "__metadata__"}
        name = next(iter(first))
        yield with_header("st_beyond", json.dumps({**header, name: {**first[name], "data_offsets": [0, 2**40]}}))
        yield with_header("st_backwards", json.dumps({**header, name: {**first[name], "data_offsets": [8, 4]}}))
        yield with_header("st_dtype", json.dumps({**header, name: {**first[name], "dtype": "EVIL"}}))
        yield with_header("st_shape", json.dumps({**header, name: {**first[name], "shape": [2**62, 2**62]}}))

    def broken_checkpoints(self) -> Iterator[tuple[Path, str]]:
        """Pickles that ask for code, zips that are bombs, states of another shape."""
        yield self.checkpoint("evil", G=Evil()), "holds more than tensors"
        yield self.checkpoint("evil_print", G=Named(print, "hello")), "holds more than tensors"
        yield self.checkpoint("evil_import", G=Named(__import__, "antigravity")), "holds more than tensors"
        yield self.checkpoint("evil_open", G=Named(open, MARK, "w")), "holds more than tensors"
        yield self.raw("legacy.pt", pickle.dumps({"format": 1, "G": Evil()})), "damaged"
        old = io.BytesIO()
        torch.save(self.state, old, _use_new_zipfile_serialization=False)
        yield self.raw("old.pt", old.getvalue()), "damaged"
        good = self.checkpoint("good").read_bytes()
        for name, data in {"empty": b"", "cut": good[:len(good) // 2], "zip": b"PK\5\6" + bytes(18), "text": b"hello" * 100}.items():
            yield self.raw(f"pt_{name}.pt", data), ""
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 1
        yield self.raw("pt_flipped.pt", bytes(flipped)), "damaged"
        yield self.pickled("pt_bomb", pickle.dumps({"format": 1, "x": b"\0" * 10**8}, 2), compress=True), "packed as no checkpoint"
        yield self.pickled("pt_large_structure", b"(" * (17 * 10**6)), "structure larger"
        yield self.pickled("pt_garbage", b"\x80\x02garbage."), ""
        yield self.pickled("pt_list", pickle.dumps([1, 2, 3], 2)), "not a checkpoint of handful"
        yield self.pickled("pt_format", pickle.dumps({"format": "1"}, 2)), "not a checkpoint of handful"
        yield self.pickled("pt_format_9", pickle.dumps({"format": 9}, 2)), "format 9"
        for name, tensor in {"beyond": _tensor("0", 10**9, 0, (10**9,), (1,)), "expanded": _tensor("0", 4, 0, (10**6, 10**6), (0, 0)),
                             "offset": _tensor("0", 4, 10**15, (4,), (1,)), "negative": _tensor("0", 4, 0, (-4,), (1,)),
                             "stride": _tensor("0", 4, 0, (4,), (-1,)), "absent": _tensor("7", 4, 0, (4,), (1,))}.items():
            yield self.pickled(f"pt_tensor_{name}", b"\x80\x02}(X\x06\0\0\0formatK\1X\1\0\0\0G" + tensor + b"u.", {"0": bytes(16)}), ""
        yield self.checkpoint("pt_sparse", G_ema={self.first: torch.eye(4).to_sparse()}), "not a checkpoint of handful"
        yield self.checkpoint("pt_tangled", G=_tangled(40)), "not a checkpoint of handful"
        yield self.checkpoint("pt_deep", G=_deep(100)), ""
        parts = {"progress_list": {"progress": [1]}, "progress_negative": {"progress": {"images_seen": -5, "iteration": 0}},
                 "progress_text": {"progress": {"images_seen": "many", "iteration": 0}}, "progress_huge": {"progress": {"images_seen": 10**30,
                                                                                                                        "iteration": 0}},
                 "progress_bool": {"progress": {"images_seen": True, "iteration": 0}}, "config_dict": {"config": {}}, "config_deep": {"config": DEEP},
                 "average_list": {"G_ema": [1]}, "average_values": {"G_ema": {self.first: 1.0}}, "average_keys": {"G_ema": {7: torch.zeros(1)}},
                 "no_g": {"G": None}, "threads_float": {"progress": {"images_seen": 0, "iteration": 0, "threads": 2.5}},
                 "threads_many": {"progress": {"images_seen": 0, "iteration": 0, "threads": 10**9}}}
        for name, changes in parts.items():
            yield self.checkpoint(f"pt_{name}", **changes), ""

    def places(self) -> Iterator[tuple[Path, str]]:
        """What is no file, or is not where it seems to be."""
        for suffix in (".safetensors", ".pt"):
            os.mkfifo(self.out / f"pipe{suffix}")
            yield self.out / f"pipe{suffix}", "not a regular file"
            (self.out / f"loop{suffix}").symlink_to(self.out / f"loop{suffix}")
            yield self.out / f"loop{suffix}", ""
        folder = self.out / "run_of_code"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.naming("g", "subprocess:Popen")))
        (folder / "model.safetensors").write_bytes(self.model("in_run", self.naming("g", "subprocess:Popen")).read_bytes())
        yield folder, "names code outside"

    def all(self) -> Iterator[tuple[Path, str]]:
        for kind in (self.names_code, self.configurations, self.tensors_of_another_kind, self.broken_safetensors, self.broken_checkpoints,
                     self.places):
            yield from kind()


def _tensor(key: str, numel: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The opcodes of a tensor as torch.save writes them, with any numbers."""
    def plain(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\n" + plain(key) + plain("cpu") + plain(numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(offset) + plain(shape) + plain(stride) + b"\x89ccollections\nOrderedDict\n)RtR"


def _tangled(depth: int) -> dict:
    """Lists of which each holds the one below twice: 2**depth places in a few bytes."""
    level: list = []
    for _ in range(depth):
        level = [level, level]
    return {"x": level}


def _deep(depth: int) -> dict:
    level: dict = {}
    for _ in range(depth):
        level = {"x": level}
    return level
