"""Classes of the images: from folders, from a CSV file, or from the official dataset.json."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from handful.data.containers import MAX_TABLE_BYTES, Source, common_folder
from handful.data.problems import count, show
from handful.errors import HandfulError, UsageError, nearest
from handful.files import loads, read_bounded

WAYS = ("auto", "folders", "json")
MOST_CLASSES = 100_000                              # class numbers beyond both this and the images are a slip
HEADINGS = {"file", "filename", "file_name", "name", "image", "path"}


@dataclass(frozen=True)
class Labels:
    """`numbers`: class number of every image of the source, by name; None without labels."""

    numbers: dict[str, int] | None = None
    class_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Images of each class, by its name; {} without labels."""
        images = Counter((self.numbers or {}).values())
        return {name: images[i] for i, name in enumerate(self.class_names)}


def read_labels(source: Source, how: str | os.PathLike | None) -> Labels:
    """Labels of all `source.names`.

    how: None (no labels); "folders": the first folder level at which names differ, in natural order (or the classes of a set that says
    them itself: one by name, or one recognised as it is distributed; so with "auto"); "json": the source's
    dataset.json; a path: a CSV file with the columns file and label (names relative to DATA; a label is a text or a number);
    "auto": json if the source has one with labels, folders if all images lie in two or more folders, otherwise none.
    Raises HandfulError when labels are missing for some images or don't fit, UsageError for an unknown `how`.
    """
    if how in (None, "none") or not source.names:
        return Labels()
    if source.classes is not None and how in ("auto", "folders"):
        numbers, class_names = source.classes
        return Labels(numbers, class_names, [f"labels: {len(class_names)} classes of the set itself"])
    if how == "folders":
        return _from_folders(source)
    if how == "json":
        return _from_json(source)
    if how == "auto":
        return _auto(source)
    if not is_table(Path(os.path.expanduser(how))):
        hint = nearest(os.fspath(how), WAYS)
        hint = hint if "mean" in hint else ""
        raise UsageError(f"labels '{show(os.fspath(how))}' is neither a CSV file that exists nor one of {', '.join(WAYS)}{hint}")
    return _from_csv(source, os.fspath(how))


def natural(text: str) -> list:
    """Sort key that puts "class 2" before "class 10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part.lower()) for part in parts] + [(2, 0, text)]


def _folder_classes(source: Source) -> tuple[str, list[str | None]]:
    """What all names share, and the next folder of each name (None: the image lies beside the folders)."""
    shared = common_folder(source.names)
    inner = [name[len(shared) :].split("/") for name in source.names]
    return shared, [parts[0] if len(parts) > 1 else None for parts in inner]


def _from_folders(source: Source) -> Labels:
    shared, classes = _folder_classes(source)
    stray = [name for name, folder in zip(source.names, classes) if folder is None]
    if stray and not shared and len(stray) == len(classes):
        raise HandfulError(f"labels=folders, but '{source.path}' has no folders in it; put each class into a folder of its own")
    if stray and len(stray) < len(classes):
        raise HandfulError(
            f"labels=folders, but {count(len(stray), 'image')} beside the class folders in '{source.path}' ({_some(stray)});"
            " move each into a class folder"
        )
    if stray:  # all in one folder
        only = shared.rstrip("/").rsplit("/", 1)[-1]
        return Labels(dict.fromkeys(source.names, 0), [only], [f"labels: one class only ('{show(only)}')"])
    return _numbered(dict(zip(source.names, classes)), "folders")


def _numbered(texts: dict[str, str], origin: str) -> Labels:
    class_names = sorted(set(texts.values()), key=natural)
    number = {text: i for i, text in enumerate(class_names)}
    note = f"labels: {len(class_names)} {'classes' if len(class_names) > 1 else 'class only'} from {origin}"
    return Labels({name: number[text] for name, text in texts.items()}, class_names, [note])


def _json_file(source: Source) -> tuple[str, dict | None]:
    """The folder of dataset.json inside the source (the root, or the wrapping folder of a zip), and what it says."""
    for base in ("", common_folder(source.names)):
        raw = source.read_extra(base + "dataset.json")
        if raw is not None:
            try:
                said = loads(raw)
                if isinstance(said, dict) and isinstance(said.get("labels"), list | None):
                    return base, said
            except (ValueError, RecursionError):
                pass
            wanted = '{"labels": [[name, number], ...]}'
            raise HandfulError(f"dataset.json in '{source.path}' must hold {wanted}, but doesn't; mend or delete it")
    return "", None


def _from_json(source: Source) -> Labels:
    base, said = _json_file(source)
    if said is None:
        raise HandfulError(f"labels=json, but there is no dataset.json in '{source.path}'; try labels=folders")
    if not said.get("labels"):
        raise HandfulError(f"labels=json, but dataset.json in '{source.path}' holds no labels; try labels=folders, or leave them out")
    numbers: dict[str, int] = {}
    for pair in said["labels"]:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise HandfulError(f"dataset.json in '{source.path}': {_glimpse(pair)} is not a name and a number; mend it")
        name, number = pair
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            fault = f"the label of '{show(name)}' must be a class number, not {_glimpse(number)}"
            raise HandfulError(f"dataset.json in '{source.path}': {fault}; mend it")
        full = base + name.replace("\\", "/")
        if numbers.setdefault(full, number) != number:
            raise HandfulError(f"dataset.json in '{source.path}': '{show(name)}' is of class {number} here and of {numbers[full]} before; leave one")
    gone = _strangers(source, numbers)
    numbers = _complete(source, numbers, "dataset.json", strangers_matter=False)
    given = said.get("class_names") or []
    if not isinstance(given, list) or any(isinstance(name, list | dict) for name in given):
        raise HandfulError(f"dataset.json in '{source.path}': class_names must be a list of names, not {_glimpse(given)}; mend it")
    most = max(numbers, key=numbers.get)
    if given and numbers[most] >= len(given):
        raise HandfulError(f"dataset.json in '{source.path}': '{show(most)}' is of class {numbers[most]}, but there are {len(given)} class_names, "
                           f"counted from 0; mend one of them")
    if numbers[most] >= max(MOST_CLASSES, len(numbers)):
        raise HandfulError(f"dataset.json in '{source.path}': '{show(most)}' is of class {numbers[most]}, far beyond the {len(numbers)} images; "
                           f"number the classes from 0")
    class_names = [str(given[i]) if i < len(given) else str(i) for i in range(max(max(numbers.values()) + 1, len(given)))]
    notes = [f"labels: {len(class_names)} classes from dataset.json"]
    if gone:
        notes.append(f"dataset.json labels {count(len(gone), 'image')} not in '{source.path}' ({_some(gone)})")
    return Labels(numbers, class_names, notes)


def _auto(source: Source) -> Labels:
    _, said = _json_file(source)
    if said is not None:  # labels null: an unlabelled set, whose folders mean nothing
        return _from_json(source) if said.get("labels") else Labels()
    _, classes = _folder_classes(source)
    shelves = all(folder is not None and re.fullmatch(r"\d{5}", folder) for folder in classes)  # 00000/, 00001/ of official zips
    if None in classes or len(set(classes)) < 2 or shelves:
        return Labels()
    return _from_folders(source)


def _from_csv(source: Source, file: str) -> Labels:
    texts = two_columns(source, file, "a label, as in: cats/1.jpg,tabby")
    return _numbered(_complete(source, texts, f"'{file}'", strangers_matter=True), f"'{file}'")


def is_table(path: Path) -> bool:
    """Whether there is a file to read; one that can't be read counts."""
    return os.path.exists(path) and not os.path.isdir(path)


def two_columns(source: Source, file: str | os.PathLike, wanted: str, within: str = "") -> dict[str, str]:
    """The second column by the name in the first, of a table in UTF-8, parted by commas, semicolons or tabs, with or without a heading.

    wanted, within: words of the errors: `file` needs "a file and WANTED", a name "is WITHIN'a' here and WITHIN'b' before".
    Raises HandfulError, naming file and line, where a cell is missing or a name has two values; and where the file can't be read.
    """
    try:
        text = io.StringIO(read_bounded(Path(os.path.expanduser(file)), MAX_TABLE_BYTES).decode("utf-8-sig"), newline=None).read()  # any line ends
    except UnicodeDecodeError as error:
        raise HandfulError(f"can't read '{file}' ({error}); save it as a CSV file in UTF-8") from None
    first, known = text.split("\n", 1)[0], set(source.names)
    texts: dict[str, str] = {}
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)))
    except csv.Error as error:
        raise HandfulError(f"'{file}' can't be read as a table ({error}); is a quotation mark left open?") from None
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or line == 1 and cells[0].lower() in HEADINGS and cells[0] not in known:
            continue
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise HandfulError(f"'{file}' line {line}: needs a file and {wanted}")
        name = cells[0].replace("\\", "/").removeprefix("./")
        if texts.setdefault(name, cells[1]) != cells[1]:
            twice = f"is {within}'{cells[1]}' here and {within}'{texts[name]}' before"
            raise HandfulError(f"'{file}' line {line}: '{show(name)}' {twice}; leave one")
    return texts


def _complete(source: Source, given: dict, origin: str, strangers_matter: bool) -> dict:
    """`given` for exactly the images of the source. Raises HandfulError for images without label and, if asked, for the reverse."""
    left_out = [name for name in source.names if name not in given]
    strangers = _strangers(source, given) if strangers_matter else []
    if left_out or strangers:
        faults = []
        if left_out:
            faults.append(f"{count(len(left_out), 'image')} without a label ({_some(left_out)})")
        if strangers:
            faults.append(f"{count(len(strangers), 'name')} not in '{source.path}' ({_some(strangers)})")
        raise HandfulError(f"labels in {origin}: {' and '.join(faults)}; names are relative to DATA, one line for every image")
    return {name: given[name] for name in source.names}


def _strangers(source: Source, given: dict) -> list[str]:
    """Names that the source doesn't have, not even as a file that can't be used."""
    images = {*source.names, *(problem.name for problem in source.problems)}
    return [name for name in given if name not in images]


def _some(names: list[str]) -> str:
    return ", ".join(show(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _glimpse(value: object) -> str:
    """The beginning of something unexpected, on one line."""
    try:
        return show(str(value)[:60])
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply"
