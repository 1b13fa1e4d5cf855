"""Train a generator on a folder or zip of images."""

from __future__ import annotations

import click

GRACE_SEC = 10                       # for the other processes to end when one has


@click.command(name="train")
@click.argument("data", required=False)
@click.option("--recipe", default="auto", show_default=True, help="A name of `handful list recipes`, or another run's config.json.")
@click.option("--out", type=click.Path(), help="The run's folder.  [default: runs/NAME]")
@click.option("--res", type=int, help="Resolution in pixels.")
@click.option("--kimg", type=float, help="Length: thousands of real images shown to the discriminator.")
@click.option("--batch", type=int, help="Images of one step, over all GPUs.")
@click.option("--seed", type=int, help="Everything random follows from it.  [default: 0]")
@click.option("--labels", help="folders, json, auto, or a CSV file: train with classes.")
@click.option("--device", default="auto", show_default=True, help="cuda, mps or cpu.")
@click.option("--gpus", type=click.IntRange(1), help="Processes to start on this machine, one per GPU.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Number format of the networks.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting by its path, e.g. --set g.ngf=32. Repeatable.")
@click.option("--skip-bad", is_flag=True, help="Train without the files that can't be read.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it takes and how much memory; then stop.")
@click.option("--init-from", type=click.Path(), metavar="MODEL", help="Start from the weights of another run.")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Go on with a run, bit for bit; DATA may be left out, --kimg lengthens it.")
def command(data, recipe, out, res, kimg, batch, seed, labels, device, gpus, precision, settings, skip_bad, dry_run, init_from, resume):
    """Train a generator on DATA: a folder of any depth, a zip, or a name (cifar10:10%). With nothing else, settings are chosen for DATA and this
    machine."""
    import os
    import sys

    from handful.errors import UsageError

    if data is None and resume is None:
        raise UsageError("name the images to train on: handful train DATA")
    if gpus and gpus > 1 and "WORLD_SIZE" not in os.environ:
        return _start_processes(gpus, sys.argv[1:])
    from handful.files import in_shell
    from handful.train import train

    run = train(data, recipe, out, kimg, res=res, batch=batch, seed=seed, labels=labels, device=device, precision=precision,
                settings=settings, skip_bad=skip_bad, dry_run=dry_run, init_from=init_from, resume=resume, say=click.echo)
    if dry_run or os.environ.get("RANK", "0") != "0":
        return 0
    if not run.finished:
        click.echo(f"stopped and saved; go on with: handful train --resume {in_shell(run.folder)}")
        return 130
    click.echo(f"done: {run.folder / 'report.html'}\npictures: handful generate {in_shell(run.folder)} --seeds 0-63 --grid")


def _start_processes(gpus: int, args: list[str]) -> int:
    """The same command once per GPU. The first speaks for all; when one fails the others go too, and its line is shown."""
    import os
    import signal
    import socket
    import subprocess
    import sys
    import tempfile
    import time

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    place = {"WORLD_SIZE": str(gpus), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    line = [sys.executable, "-m", "handful", *args]
    with tempfile.TemporaryFile("w+") as others:
        processes = [subprocess.Popen(line, env=os.environ | place | {"RANK": str(i), "LOCAL_RANK": str(i)},
                                      **({"stdout": subprocess.DEVNULL, "stderr": others} if i else {})) for i in range(gpus)]

        def stop(number: int, frame: object) -> None:
            """Ctrl-C in a terminal reaches the processes by itself, a lone signal doesn't; a second SIGTERM does no harm."""
            for p in processes:
                if p.poll() is None and os.name != "nt":
                    p.terminate()

        old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not any(p.poll() for p in processes) and any(p.poll() is None for p in processes):
                time.sleep(0.1)
            until = time.monotonic() + GRACE_SEC
            while any(p.poll() is None for p in processes) and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            for p in processes:
                if p.poll() is None:                  # it waits for one that is gone
                    p.kill()
            for s, handler in old.items():
                signal.signal(s, handler)
        codes = [p.wait() for p in processes]
        if codes[0] < 0 and any(c > 0 for c in codes):     # the first was well, and was ended because of another
            others.seek(0)
            click.echo(others.read().strip(), err=True)
        return next((c for c in (*codes, 1) if c > 0), 1) if any(codes) else 0
