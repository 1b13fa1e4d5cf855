"""`report.html`: one self-contained file about a run. It fetches nothing, shows no path but those that the user typed, and may be written
while the run is going: a missing or half-written part is left out, never an error."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import catalog
from ..errors import HandfulError, NoPermission
from ..files import in_shell, parse_json, read_bounded, write_text
from ..metrics._pretrained import pretrained_networks, said
from . import _chart
from .log import NAME, duration, read

REPORTED = "reported.json"                   # what `handful evaluate RUN DATA --reported` leaves in the folder
PREVIEWS = 24
SIDE = 1024                                  # pixels; wider previews are scaled down
PREVIEW_BYTES = 10_000_000                   # of all previews; as base64 a third more

_MAIN = {
    "D's logits": {"d/logits_real": "reals", "d/logits_fake": "fakes, D's step", "g/logits_fake": "fakes, G's step"},
    "Overfitting of D: 0 none, 1 complete": {"d/r_t": "r_t, mean sign on reals", "d/r_v": "r_v, by held-out reals"},
    "Accuracy of D: share judged real": {"d/accuracy_train": "training images", "d/accuracy_unseen": "held-out or test images",
                                         "d/accuracy_fake": "fakes"},
    "Losses": {"d/loss": "D", "g/loss": "G"},
    "Gradient norms": {"d/grad_norm": "D", "g/grad_norm": "G"},
    "Images per second": {"images_per_sec": "images/s"},
    "Memory, GB": {"memory_gb": "GB"},
}
_OF = {"real": "reals", "fake": "fakes", "heldout": "held-out reals", "g": "fakes, G's step"}        # how a term's values of one sort end
_NO_CURVE = {"images", "step", "sec", "note", "machine"}
_ELSEWHERE = {"format", "handful", "recipe", "notes", "data.path", "data.count", "data.class_names", "data.fingerprint"}


def write_report(run_folder: Path | str, trust: Iterable[str] = ()) -> Path:
    """Writes run_folder/report.html from config.json, log.jsonl, metrics.jsonl and previews/, as far as they exist. Returns its path.

    trust: modules outside of the package whose classes config.json names; of others nothing is imported, and all their settings are shown.
    """
    import jinja2

    folder = Path(run_folder)
    config = _sound(_config(folder / "config.json"))
    log, metrics = read(folder / NAME), read(folder / "metrics.jsonl")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["json"] = _json                     # plain strings: autoescape sees to them
    environment.filters["plain"] = lambda value: value if isinstance(value, str) and value else _json(value)
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    titles = chart_titles(config, trust)
    curves = _lasting([line for line in log if _is_count(line.get("images"))])
    again = f"{in_shell(folder)} {in_shell((config.get('data') or {}).get('path') or 'DATA')}"
    page = template.render(
        name=folder.resolve().name, facts=facts(config, log), previews=previews(folder / "previews"), charts=main_charts(curves, titles),
        more_charts=other_charts(curves, titles), metric_charts=metric_charts(metrics), metrics=metric_table(metrics),
        reported=reported(folder), trained_with=trained_with(config, metrics, folder, trust), evaluate=f"handful evaluate {again} --reported",
        copies=copies(folder), neighbours=f"handful neighbours {again}",
        why=config.get("notes") or [], notes=[line for line in log if line.get("note")], changed=changed(config, trust), config=config,
        commands=commands(folder, config, log), box=_chart)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def facts(config: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page's first lines say."""
    data = config.get("data") or {}
    images = max((line["images"] for line in log if _is_count(line.get("images"))), default=0)
    planned = (config.get("train") or {}).get("kimg") or 0
    seconds = next((line["sec"] for line in reversed(log) if isinstance(line.get("sec"), int | float)), None)
    side = data.get("resolution") or "?"
    height, width = side if isinstance(side, list) and len(side) == 2 else (side, side)
    return {"images": images, "planned": planned * 1000, "share": min(1.0, images / (planned * 1000)) if planned else 1.0,
            "time": duration(seconds) if seconds else "", "speed": _chart.short(images / seconds) if seconds and images else "",
            "machine": next((str(line["machine"]) for line in reversed(log) if line.get("machine")), ""),
            "recipe": config.get("recipe") or (config.get("g") or {}).get("use") or "", "resolution": f"{width}×{height}",
            "path": data.get("path") or "", "count": data.get("count") or 0, "fingerprint": data.get("fingerprint") or "",
            "classes": data.get("class_names") or [], "licence": data.get("licence") or "", "seed": config.get("seed", 0),
            "epochs": images / data["count"] if data.get("count") else 0, "version": config.get("handful") or ""}


# ----------------------------------------------------------------------------------------------------------------- previews


def previews(folder: Path) -> list[dict[str, Any]]:
    """{images, src, width, height} of the previews, oldest first: at most PREVIEWS, evenly chosen, the first and the last among them."""
    files = sorted((int(p.stem), p) for p in folder.glob("*.jp*g") if p.stem.isdigit()) if folder.is_dir() else []
    encoded: dict[int, dict[str, Any] | None] = {}
    for most in (PREVIEWS, 16, 10, 6, 3, 1):
        chosen = evenly(files, most)
        encoded |= {images: _preview(images, path) for images, path in chosen if images not in encoded}
        shown = [found for images, _ in chosen if (found := encoded[images])]
        if sum(len(p["src"]) for p in shown) * 3 / 4 <= PREVIEW_BYTES:
            break
    return shown


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, with the last one and (where most > 1) the first."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)] if most > 1 else [items[-1]]


def _preview(images: int, path: Path) -> dict[str, Any] | None:
    """One preview as a data: address; None where the file can't be read (a run that is being copied)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            data = path.read_bytes()
            if image.width > SIDE or image.format != "JPEG":
                image = image.convert("L" if image.mode == "L" else "RGB")
                image = image.resize((SIDE, max(1, round(image.height * SIDE / image.width))), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=86)
                data = buffer.getvalue()
            return {"images": images, "width": image.width, "height": image.height,
                    "src": "data:image/jpeg;base64," + base64.b64encode(data).decode()}
    except (OSError, ValueError, SyntaxError):
        return None


# ------------------------------------------------------------------------------------------------------------------- curves


def chart_titles(config: Mapping[str, Any], trust: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """The main charts, {title: {key of the log: label}}: those of every run, and those that the run's terms name."""
    titles = {title: dict(names) for title, names in _MAIN.items()}
    for name, use in (config.get("terms") or {}).items():
        cls = _class_of("terms", use.get("use") if isinstance(use, Mapping) else None, "", trust)
        for title, stats in getattr(cls, "charts", {}).items():
            titles.setdefault(title, {}).update({f"d/{name}/{stat}": label for stat, label in stats.items()})
    return titles


def main_charts(log: Sequence[Mapping[str, Any]], titles: Mapping[str, Mapping[str, str]] = _MAIN) -> list[dict[str, Any]]:
    """titles: of `chart_titles`."""
    return [c for title, names in titles.items() if (c := _chart.chart(title, log, names))]


def other_charts(log: Sequence[Mapping[str, Any]], main: Mapping[str, Mapping[str, str]] = _MAIN) -> list[dict[str, Any]]:
    """Every other key of the log, in the order of the titles: D's and G's value of the same thing in one chart, and a term's values of reals, fakes
    and G's step (cl_real, cl_fake, cl_g) in one."""
    known = _NO_CURVE.union(*main.values())
    known |= {k for k in ("d/bad_grads", "g/bad_grads") if not any(line.get(k) for line in log)}
    titles: dict[str, dict[str, str]] = {}
    for key in sorted({k for line in log for k in line} - known):
        side, _, rest = key.partition("/")
        title, label = (rest, side.upper()) if side in ("d", "g") and rest else (key, key)
        stem, _, of = rest.rpartition("_")
        if "/" in stem and of in _OF:
            title, label = stem, _OF[of]
        if key in ("lr_d", "lr_g"):
            title, label = "Learning rates", key[-1].upper()
        title = {"bad_grads": "Non-finite gradients"}.get(title, title.replace("loss_", "loss of ").replace("/", ": "))
        titles.setdefault(title, {})[key] = label
    charts = [_chart.chart(title, log, names) for title, names in titles.items()]
    return [c for c in charts if c]


def _lasting(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what a roll-back undid: lines that a later line with fewer images supersedes."""
    kept: list[Mapping[str, Any]] = []
    for line in log:
        while kept and kept[-1]["images"] > line["images"]:
            kept.pop()
        kept.append(line)
    return kept


def metric_charts(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    charts = []
    for name in _metric_names(metrics):
        rows = [{"images": m["images"], name: m.get("value")} for m in metrics if m["metric"] == name and _is_count(m.get("images"))]
        if len(rows) > 1 and (c := _chart.chart(name, rows, {name: name})):
            charts.append(c)
    return charts


def metric_table(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a metric: its newest value, all values, how it was measured."""
    rows = []
    for name in _metric_names(metrics):
        mine = [m for m in metrics if m["metric"] == name and isinstance(m.get("value"), int | float)]
        if mine:
            last = mine[-1]
            protocol = last.get("protocol") or ""
            error = f" ± {_chart.short(last['stderr'])}" if isinstance(last.get("stderr"), int | float) else ""
            rows.append({"name": name, "value": _chart.short(last["value"]) + error, "images": last.get("images"), "note": last.get("note") or "",
                         "all": [(m.get("images"), _chart.short(m["value"])) for m in mine],
                         "protocol": protocol if isinstance(protocol, str) else _json(protocol)})
    return rows


def reported(folder: Path) -> list[dict[str, Any]]:
    """One row a figure of reported.json: {name, features, value, images, protocol}, each followed by the same in the second spaces."""
    rows = []
    for name, found in _config(folder / REPORTED).items():
        second = found.get("second") if isinstance(found, Mapping) else None
        for one in (found, *(second.values() if isinstance(second, Mapping) else ())):
            if isinstance(one, Mapping) and _is_number(one.get("value")):
                error = f" ± {_chart.short(one['stderr'])}" if _is_number(one.get("stderr")) else ""
                rows.append({"name": name, "features": str(one.get("extractor") or ""), "value": _chart.short(one["value"]) + error,
                             "images": one.get("model_images_seen") if _is_count(one.get("model_images_seen")) else None,
                             "protocol": str(one.get("protocol") or "")})
    return rows


def trained_with(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], folder: Path, trust: Iterable[str] = ()) -> str:
    """Which pretrained networks the run used, and what that means for its figures; "" where it used none, or has no figures."""
    figures = [*metrics, *(m for m in _config(folder / REPORTED).values() if isinstance(m, Mapping))]
    figure = next((m["extractor"] for m in figures if isinstance(m.get("extractor"), str)), "")
    try:
        used = pretrained_networks(config, trust) if figures else {}
    except Exception:                       # settings of an author's own package, or of a damaged file
        used = {}
    return said(used, figure) if used else ""


def _metric_names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(m["metric"] for m in metrics if isinstance(m.get("metric"), str)))


def copies(folder: Path) -> dict[str, Any] | None:
    """What `handful neighbours` found, from neighbours.json and neighbours.jpg: the sentence, notes, a row a kind of distance, the sheet."""
    found = _config(folder / "neighbours.json")
    if not isinstance(found.get("sentence"), str):
        return None
    kinds = found.get("kinds") if isinstance(found.get("kinds"), Mapping) else {}
    rows = []
    for name, kind in kinds.items():
        try:
            rows.append((name, f"{100 * kind['closer']['share']:.1f} %", f"{100 * kind['closer']['expected']:.1f} %",
                         *(_chart.short(kind[side]["median"]) for side in ("fakes", "reals")), (found.get("protocol") or {}).get(name, "")))
        except (KeyError, TypeError, AttributeError, ValueError):
            continue                                          # of another version
    return {"sentence": found["sentence"], "notes": [str(n) for n in found.get("notes") or []], "rows": rows,
            "images": found.get("images_seen"), "sheet": _preview(0, folder / "neighbours.jpg")}


# ----------------------------------------------------------------------------------------------------------------- settings


def changed(config: Mapping[str, Any], trust: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """(dotted path, value, default) of the settings that are not handful's defaults: what the recipe, the machine and the user chose."""
    from ..config import Config, to_tree

    if not config:
        return []
    default = to_tree(Config())
    methods = {**catalog.PLACES, **{f"terms.{k}": ("terms", "") for k in config.get("terms") or {}}}
    defaults = _flat({k: v for k, v in default.items() if k not in catalog.PLACES and k != "terms"})
    for path, (kind, which) in methods.items():
        section = config.get(path) if path in catalog.PLACES else (config.get("terms") or {}).get(path.partition(".")[2])
        if isinstance(section, Mapping) and "use" in section:
            # that a term is there is a choice; of the other methods, one that differs from the default is
            known = {} if path not in catalog.PLACES else {"use": default[path]["use"]}
            defaults |= {f"{path}.{k}": v for k, v in {**known, **_keyword_defaults(kind, str(section["use"]), which, trust)}.items()}
    flat = _flat(config)
    return [(k, v, defaults.get(k)) for k, v in flat.items() if k not in _ELSEWHERE and (k not in defaults or v != defaults[k])]


def _class_of(kind: str, name: object, which: str, trust: Iterable[str]) -> type | None:
    """The class of a method; None where it may not be imported, or can't."""
    if not isinstance(name, str) or catalog.is_outside(name) and catalog.module_of(name) not in trust:
        return None
    try:
        return catalog.part(kind, name, which)
    except Exception:                       # the class of an author's own package may be absent here
        return None


def _keyword_defaults(kind: str, name: str, which: str, trust: Iterable[str]) -> dict[str, Any]:
    """{setting: default}; {} where the class isn't known: all its settings are shown then."""
    cls = _class_of(kind, name, which, trust)
    known = {} if cls is None else catalog.keywords(cls)
    return {k: json.loads(json.dumps(p.default, default=str)) for k, p in known.items() if p.default is not p.empty}


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{path}.{key}" if path else str(key)).items()}
    return {path: tree}


def commands(folder: Path, config: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what for, command line): how to go on with this run."""
    run = in_shell(folder)
    f = facts(config, log)
    longer = math.ceil(2 * max(f["planned"], f["images"], 1000) / 1000)
    found = [("Pictures from it", f"handful generate {run} --seeds 0-63 --grid")]
    if f["classes"]:
        found.append(("Of each class", f"handful generate {run} --class each --seeds 0-9 --grid"))
    if f["images"] < f["planned"]:
        found.insert(0, ("Go on to the planned end", f"handful train --resume {run}"))
    return [*found, ("Train it longer", f"handful train --resume {run} --kimg {longer}"), ("Write this page anew", f"handful report {run}")]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _config(path: Path) -> dict[str, Any]:
    try:
        return parse_json(read_bounded(path), path.name, dict)
    except NoPermission:
        raise
    except HandfulError:
        return {}


def _sound(config: dict[str, Any]) -> dict[str, Any]:
    """The same without what is not of its kind: a page about a damaged configuration says what it can."""
    def kept(tree: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in tree.items() if k not in kinds or kinds[k](v)}

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(v, str) for v in value)

    def mapping(value: Any) -> bool:
        return isinstance(value, Mapping)

    config = kept(config, {**dict.fromkeys(("data", "g", "d", "augment", "loss", "terms", "train"), mapping), "notes": texts, "seed": _is_count})
    config["data"] = kept(config.get("data", {}), {"count": _is_count, "class_names": texts, "path": lambda v: isinstance(v, str)})
    config["train"] = kept(config.get("train", {}), {"kimg": _is_count})
    return config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
