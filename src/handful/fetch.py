"""Downloads: resumable, checked by sha256, atomic; and where pip's or npm's own configuration says that a package is.

Nothing of a package is ever executed: its index page (PEP 503 or 691, or npm's) is read, and its archive taken as a file.
"""

from __future__ import annotations

import ast
import base64
import contextvars
import errno
import hashlib
import html.parser
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from handful.errors import HandfulError

Progress = Callable[[str, int, int], None]  # (file name, bytes so far, bytes in all or 0 if unknown)

_TIMEOUT_SEC = 30
_TRIES = 3
OFFLINE = "HANDFUL_OFFLINE"                 # set to anything but 0: nothing is fetched (--offline sets it)
HURRY_SEC = 10
MOST_INDEX = 64 * 10**6                     # bytes of a page of a package index
_PYPI = "https://pypi.org/simple"
_NPM = "https://registry.npmjs.org"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


_hurried = contextvars.ContextVar("hurried", default=False)


def offline() -> bool:
    """Whether the user wants no network."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


@contextmanager
def hurried() -> Iterator[None]:
    """Inside, one try and HURRY_SEC to connect: for what is fetched beside other work, which can say how to do without."""
    token = _hurried.set(True)
    try:
        yield
    finally:
        _hurried.reset(token)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Unreachable(Exception):
    """This origin did not deliver; the message says why in a few words. The next origin may."""


def download(url: str, to: Path, sha256: str, progress: Progress | None = None) -> Path:
    """`url` as the file `to`. sha256: the digest, or the leading part of it that the origin publishes.

    Until it is complete and right the file is `to`.part: an interrupted download goes on from there at the next call. A complete file
    with another digest is removed (once more from the start if it was a continued one), and so is a partial one when the disk is full.
    Raises Unreachable when the network fails, HandfulError on a wrong digest or a full disk.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + ".part")
    continued = part.exists()
    try:
        _fill(url, part, to.name, progress)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise HandfulError(f"{part}: {fault.strerror or fault}; is the folder writable? HANDFUL_CACHE names another") from None
        part.unlink(missing_ok=True)
        raise HandfulError(f"{to.parent}: the disk is full; free some space, or set HANDFUL_CACHE to another folder") from None
    found = sha256_of(part)
    if found.startswith(sha256):
        os.replace(part, to)
        return to
    part.unlink()
    if continued:
        return download(url, to, sha256, progress)
    raise HandfulError(f"{to.name} from {_host(url)} has sha256 {found[:16]}..., not {sha256[:16]}...: damaged or changed on its way; removed")


def _fill(url: str, part: Path, name: str, progress: Progress | None) -> None:
    """Downloads until `part` has as many bytes as the server promises."""
    reason = ""
    for _ in range(1 if _hurried.get() else _TRIES):
        have = part.stat().st_size if part.exists() else 0
        try:
            response = _open(url, {"Range": f"bytes={have}-"} if have else {})
        except urllib.error.HTTPError as fault:
            if fault.code == 416 and have:  # nothing is left to send; the digest decides
                return
            raise Unreachable(f"{_host(url)} answers {fault.code} {fault.reason}") from None
        except (OSError, ValueError) as fault:
            raise Unreachable(f"{_host(url)}: {_reason(fault)}") from None
        with response:
            if getattr(response, "status", None) != 206:
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else 0
            with open(part, "r+b" if have else "wb") as file:
                file.seek(have)
                for block in _blocks(response):
                    if isinstance(block, Exception):
                        reason = _reason(block)
                        break
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(name, have, total)
                else:
                    if have >= total:
                        return
                    reason = f"the connection ended after {have} of {total} bytes"
    raise Unreachable(f"{_host(url)}: {reason}; what came is kept, the same command goes on from there")


def _blocks(response) -> Iterator[bytes | Exception]:
    """The body; a network fault comes as the last item, so that it can't be taken for one of the disk's."""
    while True:
        try:
            block = response.read(1 << 20)
        except Exception as fault:
            yield fault
            return
        if not block:
            return
        yield block


def package_urls(package: str, filename: str) -> list[str]:
    """Where pip's configuration finds this file of a package: local `find-links` folders, then the indexes. Raises Unreachable."""
    settings, urls, reasons = pip_settings(), [], []
    for place in settings.get("find-links", "").split():
        folder = Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path) if place.startswith("file:") else place)
        if (folder / filename).is_file():
            urls.append((folder / filename).resolve().as_uri())
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        for index in [settings.get("index-url", _PYPI), *settings.get("extra-index-url", "").split()]:
            try:
                urls += _in_index(index, package, filename)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:        # down, or not an index at all
                reasons.append(f"{_host(index)}: {_reason(fault)}")
    if not urls:
        raise Unreachable("; ".join(reasons) or f"no index of pip's configuration has {filename}")
    return urls


def _in_index(index: str, package: str, filename: str) -> list[str]:
    page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    try:
        with _open(page + "index.html" if page.startswith("file:") else page, {"Accept": _ACCEPT}) as response:
            text, kind, base = _read(response).decode(), response.headers.get("Content-Type", ""), response.url or page
    except urllib.error.HTTPError as fault:
        if fault.code == 404:
            return []
        raise
    links = [file["url"] for file in json.loads(text)["files"]] if "json" in kind else _links(text)
    named = [link for link in links if urllib.parse.unquote(urllib.parse.urlsplit(link).path).endswith("/" + filename) or link == filename]
    return [_with_login(urllib.parse.urljoin(base, link).partition("#")[0], page) for link in named]


def _read(response) -> bytes:
    """An index page. Raises ValueError where it has no end."""
    text = response.read(MOST_INDEX + 1)
    if len(text) > MOST_INDEX:
        raise ValueError(f"its page is larger than {MOST_INDEX // 10**6} MB")
    return text


def _links(text: str) -> list[str]:
    found: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.extend(v for k, v in attrs if tag == "a" and k == "href" and v)
    parser.feed(text)
    return found


def _with_login(url: str, index: str) -> str:
    """An index's login goes for the files on the same host, as it does in pip."""
    there, here = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    if there.hostname == here.hostname and "@" in here.netloc and "@" not in there.netloc:
        return there._replace(netloc=here.netloc.rpartition("@")[0] + "@" + there.netloc).geturl()
    return url


def npm_urls(package: str, version: str) -> list[str]:
    """Where the registry of npm's configuration has the archive of a package. Raises Unreachable."""
    registry = npm_registry().rstrip("/")
    try:
        with _open(f"{registry}/{package}/{version}", {"Accept": "application/json"}) as response:
            return [_with_login(json.loads(_read(response))["dist"]["tarball"], registry)]
    except urllib.error.HTTPError as fault:
        raise Unreachable(f"{_host(registry)} answers {fault.code} {fault.reason}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise Unreachable(f"{_host(registry)}: {_reason(fault)}") from None


@cache
def npm_registry() -> str:
    """The registry that npm uses (its files and environment); the environment and the user's .npmrc alone where npm is not installed."""
    if npm := shutil.which("npm"):
        try:
            listed = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_SEC)
        except (OSError, subprocess.TimeoutExpired):
            pass
        else:
            if listed.stdout.strip().startswith("http"):
                return listed.stdout.strip()
    if given := os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY"):
        return given
    try:
        lines = (Path.home() / ".npmrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        lines = ""
    found = re.search(r"^\s*registry\s*=\s*(http\S+)", lines, re.MULTILINE)
    return found.group(1) if found else _NPM


@cache
def pip_settings() -> dict[str, str]:
    """pip's effective settings (files and environment); its environment variables alone where pip is not installed."""
    settings: dict[str, str] = {}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    for scope in ("global", "download", ":env:"):  # the later wins
        for key, value in re.findall(rf"^{scope}\.([\w-]+)=('.*'|\".*\")$", listed.stdout, re.MULTILINE):
            settings[key] = ast.literal_eval(value)
    if listed.returncode != 0:
        settings = {k[4:].lower().replace("_", "-"): v for k, v in os.environ.items() if k.startswith("PIP_")}
    return settings


def _open(url: str, headers: dict[str, str]):
    if offline() and not url.startswith("file:"):
        raise urllib.error.URLError(f"the network is not to be used (--offline, {OFFLINE})")
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers={"User-Agent": "handful", **headers})
    if login:  # unredirected: it is for this host alone
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    try:
        return _opener().open(request, timeout=HURRY_SEC if _hurried.get() else _TIMEOUT_SEC)
    except urllib.error.HTTPError as fault:
        fault.close()
        raise


@cache
def _opener() -> urllib.request.OpenerDirector:
    settings = pip_settings()
    context = ssl.create_default_context()
    try:
        from pip._vendor import certifi  # Python's own certificates are missing on some Macs

        context.load_verify_locations(certifi.where())
    except (ImportError, OSError):
        pass
    if "cert" in settings:
        context.load_verify_locations(settings["cert"])
    handlers: list = [urllib.request.HTTPSHandler(context=context)]
    if "proxy" in settings:
        handlers.append(urllib.request.ProxyHandler({"http": settings["proxy"], "https": settings["proxy"]}))
    return urllib.request.build_opener(*handlers)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or url


def _reason(fault: Exception) -> str:
    cause = getattr(fault, "reason", fault)
    return str(getattr(cause, "strerror", None) or cause) or type(fault).__name__
