"""Write pictures from a trained model."""

from __future__ import annotations

import click

from ._options import trust as trust_option

EACH = ("each", "all")               # of --class: a row for every class, unless a class of the model is called so

@click.command(name="generate")
@click.argument("model", type=click.Path())
@click.option("--seeds", default="0-15", show_default=True, help="Numbers and ranges: 0-63 or 1,5,9-12. A seed is a picture.")
@click.option("--trunc", type=click.FloatRange(0, 2), default=1.0, show_default=True, help="Below 1: less variety, fewer accidents.")
@click.option("--class", "label", help="A class by name or number, for a model trained with labels; each (or all): one row per class, with --grid.")
@click.option("--grid", "as_grid", is_flag=True, help="One sheet instead of a file per seed.")
@click.option("--out", type=click.Path(), default="pictures", show_default=True, help="Folder to write to.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Images at once.")
@click.option("--device", default="auto", show_default=True)
@trust_option
def command(model, seeds, trunc, label, as_grid, out, batch, device, trust):
    """Write pictures of MODEL: a run folder, a checkpoint or a .safetensors. The same seed gives the same picture, always."""
    from pathlib import Path

    import numpy as np

    from handful.data.problems import count
    from handful.errors import UsageError
    from handful.infer import load
    from handful.infer.grid import grid, save_image, with_titles

    numbers = parse_seeds(seeds)
    loaded = load(model, device, trust)
    folder = Path(out)
    if label in EACH and loaded.class_names and label not in loaded.class_names:
        if not as_grid:
            raise UsageError(f"--class {label} makes a sheet with a row for each class: add --grid, or name one class")
        rows = [loaded.sample(numbers, trunc, i, batch) for i in range(len(loaded.class_names))]
        path = folder / f"classes_{_range_name(seeds)}.png"
        save_image(path, with_titles(grid(np.concatenate(rows), columns=len(numbers)), loaded.class_names))
        click.echo(path)
        return
    if as_grid:
        path = folder / f"grid_{_range_name(seeds)}.png"
        save_image(path, grid(np.concatenate(list(loaded.stream(numbers, trunc, label, batch)))))
        click.echo(path)
        return
    done = iter(numbers)
    for pictures in loaded.stream(numbers, trunc, label, batch):
        for picture in pictures:
            save_image(folder / f"seed{next(done):08d}.png", picture)
    click.echo(f"{count(len(numbers), 'picture')} in {folder}")


def parse_seeds(text: str) -> list[int]:
    """"0-3,8" to [0, 1, 2, 3, 8]. Raises UsageError for what makes no sense."""
    from handful.errors import UsageError
    from handful.infer.model import check_seed

    out: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {text}: '{part.strip()}' is neither a number nor a range; write e.g. 0-63 or 1,5,9-12")
        low, high = check_seed(int(first)), check_seed(int(last or first))
        if high < low:
            raise UsageError(f"--seeds {text}: the range {part.strip()} runs backwards; write {high}-{low}")
        if high - low >= 1_000_000:
            raise UsageError(f"--seeds {text}: {high - low + 1} pictures are more than a million; take a smaller range")
        out += range(low, high + 1)
    return out


def _range_name(seeds: str) -> str:
    return seeds.replace(",", "_").replace(" ", "")[:80]
