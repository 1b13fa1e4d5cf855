"""Memory of decoding: bounded over all threads, large pictures one at a time, and nobody waits for ever."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from PIL import Image

from handful.data import check, load, memory
from handful.data.memory import Budget
from handful.data.problems import Problem, attempt
from handful.data.sources import open_source
from handful.data.threads import in_threads


class Gauge:
    """What threads hold at once, and the most that was."""

    def __init__(self):
        self.lock, self.now, self.most, self.side_by_side = threading.Lock(), 0, 0, 0
        self.holders = 0

    def add(self, amount: int) -> None:
        with self.lock:
            self.now += amount
            self.holders += 1 if amount > 0 else -1
            self.most, self.side_by_side = max(self.most, self.now), max(self.side_by_side, self.holders)


def budget(total: int) -> Budget:
    made = Budget()
    made.total = total
    return made


def at_once(works: list) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits for ever"


def test_no_more_is_held_than_there_is_and_small_ones_run_side_by_side():
    shared, gauge = budget(100), Gauge()

    def work(opened: int, needed: int):
        def look():
            shared.require(needed)
            gauge.add(opened + needed)
            time.sleep(0.002)
            gauge.add(-opened - needed)

        return lambda: [shared.within(opened, look) for _ in range(10)]

    at_once([work(1, 9 + i) for i in range(8)])
    assert gauge.most <= 100 and gauge.side_by_side > 2
    assert shared._held == 0


def test_what_exceeds_the_total_runs_alone(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000)
    shared, gauge = budget(100), Gauge()

    def work(needed: int):
        def look():
            shared.require(needed)
            gauge.add(needed)
            if needed > 100:
                assert gauge.holders == 1
            time.sleep(0.002)
            gauge.add(-needed)

        return lambda: [shared.within(5, look) for _ in range(10)]

    at_once([work(300), work(200), work(10), work(20), work(30)])
    assert gauge.most <= 300 and shared._held == 0


def test_files_in_hand_do_not_wait_for_each_other():
    """Each has opened a file that takes half of the total, and then needs the other half."""
    shared, opened, done = budget(100), threading.Barrier(2, timeout=30), []

    def look():
        try:
            opened.wait(0.5 if done else 30)
        except threading.BrokenBarrierError:
            pass                                                          # the second time, one of them is alone
        done.append(1)
        shared.require(50)
        return "decoded"

    results = []
    at_once([lambda: results.append(shared.within(50, look))] * 2)
    assert results == ["decoded"] * 2 and shared._held == 0


def test_a_fault_gives_back_what_was_held():
    shared = budget(100)

    def fail():
        shared.require(60)
        raise KeyError("broken")

    for _ in range(3):
        with pytest.raises(KeyError):
            shared.within(10, fail)
    assert shared._held == 0
    shared.require(10**9)                                                 # outside of any file it means nothing


def test_what_is_not_free_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 10**9)
    shared = budget(100)
    assert shared.within(0, lambda: shared.require(2 * 10**9) or "decoded") == "decoded"
    with pytest.raises(MemoryError, match="it takes 5.0 GB, 3.0 GB are free"):
        shared.within(0, lambda: shared.require(5 * 10**9))
    assert shared._held == 0


def test_the_total_is_half_of_what_is_free_within_bounds(monkeypatch):
    made = Budget()
    for free, total in ((6 * 10**9, 3 * 10**9), (10**12, memory.MOST), (-5, memory.LEAST)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        made.measure()
        assert made.total == total
    monkeypatch.setattr(memory, "free_memory", lambda: 6 * 10**9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")                           # processes of one run share the machine
    made.measure()
    assert made.total == 10**9


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        Image.new("RGB", (60 + i, 60), (i, 40, 90)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_picture_too_large_for_the_memory_is_one_bad_file(photos, monkeypatch):
    Image.new("RGB", (1200, 1000)).save(photos / "large.png")
    monkeypatch.setattr(memory, "free_memory", lambda: 8_000_000)
    monkeypatch.setattr(memory, "LEAST", 10**6)
    report = check(photos)
    assert [str(problem) for problem in report.problems] == [
        "large.png: too large for the memory (it takes 0.0 GB, 0.0 GB are free); make it smaller in an image editor, or close other programs"]
    assert len(load(photos, resolution=16, skip_bad=True)) == 6


def test_large_pictures_are_decoded_one_at_a_time(photos, monkeypatch):
    """Of six pictures two would fit by twos, but with a total of less than two each waits for the other."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(memory, "MOST", 45_000)                           # 60 x 60 x 9 bytes and the target take 36 kB
    monkeypatch.setattr(memory, "LEAST", 0)
    gauge, real = Gauge(), Image.Image.resize

    def resize(self, *args, **kwargs):
        gauge.add(1)
        time.sleep(0.01)
        gauge.add(-1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", resize)
    load(photos, resolution=16)
    assert gauge.side_by_side == 1
    monkeypatch.setattr(memory, "MOST", 10**9)
    load(photos, resolution=16)
    assert gauge.side_by_side > 1


def test_a_member_of_a_zip_counts_while_it_is_open(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a.png", b"\0" * 10_000)
    with open_source(tmp_path / "z.zip") as source:
        held = attempt(source, "a.png", lambda file: memory.DECODING._held)
        assert held == source.held("a.png") > 10_000
    assert memory.DECODING._held == 0


def test_an_interrupt_among_waiting_threads_ends(photos, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(memory, "MOST", 1000)
    monkeypatch.setattr(memory, "LEAST", 0)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(photos, resolution=16, progress=stop)
    assert memory.DECODING._held == 0


def test_many_threads_on_mixed_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(memory, "MOST", 10**6)
    monkeypatch.setattr(memory, "LEAST", 0)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        for i in range(60):
            file = io.BytesIO()
            side = (20, 300, 1000)[i % 3]
            Image.effect_noise((side, side), 40).save(file, "PNG")
            z.writestr(f"{i:02d}.png", file.getvalue())
    taken = []
    with open_source(tmp_path / "z.zip") as source:
        def work(name):
            def look(file):
                if name == "07.png":
                    raise RuntimeError("this one fails")
                memory.DECODING.require(len(file.read()))
                return name
            return attempt(source, name, look)
        in_threads(work, source.names, lambda name, result: taken.append(result))
    assert [r if isinstance(r, str) else type(r) for r in taken] == [f"{i:02d}.png" if i != 7 else Problem for i in range(60)]
    assert memory.DECODING._held == 0


PEAKS = """
import gc, io, json, sys
from PIL import Image
from handful.data.decode import FORMATS, Preparation, _memory, _open, picture, pixels

def kilobytes(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

Image.init()
side, found = 2000, {}
ground = Image.radial_gradient("L").resize((side, side))
kinds = [("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "LA", {}), ("PNG", "P", {"transparency": 0}), ("PNG", "I;16", {}), ("PNG", "L", {}),
         ("TIFF", "F", {}), ("TIFF", "CMYK", {}), ("JPEG", "RGB", {"quality": 95}), ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
         ("JPEG", "CMYK", {"progressive": True}), ("WEBP", "RGB", {"method": 0}), ("JPEG2000", "RGB", {}), ("GIF", "P", {}), ("BMP", "RGB", {})]
for format, mode, options in kinds:
    if format not in Image.SAVE:
        continue
    image = ground.convert("I;16") if mode == "I;16" else ground.convert(mode)
    if mode == "RGBA":
        image.putalpha(ground)
    file = io.BytesIO()
    image.save(file, format, **options)
    del image
    for settings in ({"resolution": 64}, {"resolution": (64, 48), "channels": 1}, {"resolution": None}):
        preparation = Preparation.of(window=(0, 255) if mode == "F" else None, **settings)
        file.seek(0)
        said = _memory(_open(file), preparation)
        file.seek(0)
        gc.collect()
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")
        before = kilobytes("VmRSS")
        pixels(picture(file, preparation)[0])
        found[f"{format} {mode} {options} {settings}"] = ((kilobytes("VmHWM") - before) * 1024, said)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory was held at most")
def test_what_decoding_takes_is_what_is_said():
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True)
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not measure anew")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    over = {what: (peak / 4e6, said / 4e6) for what, (peak, said) in found.items() if peak > said + 4e6}
    assert len(found) > 20 and not over, over
