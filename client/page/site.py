"""Which answer each request to the page gets; the connection itself is `tacit.client.page.server`'s."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs

import jinja2

from tacit import __version__
from tacit.client.page import words
from tacit.client.page.door import Door
from tacit.client.page.view import PAGE_OF, View
from tacit.models.errors import InputError

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
COOKIE: Final = "tacit-page"
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer", under which browsers hide from us that a form is our own.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
_HTML = "text/html; charset=utf-8"
_HOST = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Request:
    """What a browser asks.

    Attributes:
        method: GET or POST.
        path, query: what it asks for.
        headers: the others, by their names in small letters.
        body: a form.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """What it gets."""

    status: int
    body: bytes = b""
    content_type: str = _HTML
    headers: Mapping[str, str] = field(default_factory=dict)


class Site:
    """The page of one agent.

    Args:
        view: what it shows.
        door: who may see it.
    """

    def __init__(self, view: View, door: Door) -> None:
        """Read nothing yet."""
        self._view, self._door = view, door
        self._lock = threading.Lock()
        self._base = f"/{door.path}/"

    def answer(self, request: Request) -> Response:
        """Answer one request; from any thread."""
        host = request.headers.get("host", "")
        # A name of an attacker's own may resolve to the loopback address: browsers then believe that we are that site.
        if (match := _HOST.fullmatch(host)) is None or match[1].lower() not in LOOPBACK:
            return _note(421, "Not here", "This page answers only to 127.0.0.1 and localhost.")
        if request.method == "GET" and request.path == "/open":
            return self._open(request)
        if request.path == "/favicon.ico":
            return Response(204)
        if (name := request.path.removeprefix("/")) in _ASSETS:
            content_type = f"{_ASSETS[name]}; charset=utf-8"
            return Response(200, _asset(name), content_type, {"Cache-Control": "private, max-age=3600"})
        session = _cookie(request)
        if not request.path.startswith(self._base) or not self._door.is_session(session):
            return _note(403, "A link is needed", _NEEDED)
        name = request.path.removeprefix(self._base)
        if request.method == "POST":
            return self._do(name, request, f"http://{host}", session)
        return self._show(name, request, session)

    def _open(self, request: Request) -> Response:
        if "purpose" in request.headers or "sec-purpose" in request.headers:
            return Response(503)  # a browser that looks ahead would use the link up
        session = self._door.enter(_only(request.query, "with"))
        if session is None:
            return _note(403, "This link is used up", f"A link opens the page once, within ten minutes. {_NEEDED}")
        # A cookie is not sent along a redirection that another site began, so the browser goes on from here by itself.
        cookie = f"{COOKIE}={session}; Path={self._base}; HttpOnly; SameSite=Strict"
        return _page("open.html", 200, {"Set-Cookie": cookie}, base=self._base)

    def _show(self, name: str, request: Request, session: str) -> Response:
        if name not in ("", "messages"):
            return _note(404, "Nothing is here", "There is nothing at this address.", base=self._base)
        try:
            with self._lock:
                self._view.refresh()
                shown = self._view.overview()
                if name == "messages":
                    shown |= self._further(request, shown.get("message_count", 0))
        except InputError as error:
            return _note(503, "The account cannot be shown", str(error), base=self._base)
        template = "problem.html" if "state" not in shown else "messages.html" if name else "overview.html"
        answer = _page(template, 200, {}, base=self._base, word=self._door.word(session), **shown)
        tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        if hmac.compare_digest(request.headers.get("if-none-match", "").encode(), tag.encode()):
            return Response(304, headers={"ETag": tag})
        return Response(200, answer.body, headers={"ETag": tag})

    def _further(self, request: Request, count: int) -> dict[str, Any]:
        given = _only(request.query, "before")
        before = min(int(given), count + 1) if re.fullmatch(r"[0-9]{1,12}", given) else count + 1
        older, newer = before - PAGE_OF, before + PAGE_OF
        return {
            "messages": self._view.messages(before),
            "older": older if older > 1 else None,
            "newer": min(newer, count + 1) if before <= count else None,
        }

    def _do(self, name: str, request: Request, origin: str, session: str) -> Response:
        if name not in ("pause", "resume"):
            return _note(405, "That cannot be done", "This address takes no orders.", base=self._base)
        from_here = (
            request.headers.get("origin") == origin
            and request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
            and self._door.is_word(_only(request.body.decode("ascii", "replace"), "word"), session)
        )
        if not from_here:
            return _note(403, "Not from this page", "The order did not come from this page, and was not followed.")
        try:
            with self._lock:
                self._view.refresh()
                self._view.pause(name == "pause")
        except InputError as error:
            return _note(503, "That did not work", str(error), base=self._base)
        return Response(303, headers={"Location": self._base})


_NEEDED: Final = (
    "Type tacit agent page, with the --dir of your agent, in a terminal here, and open the link that it shows."
)


def _cookie(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _only(form: str, name: str) -> str:
    """Return a form's one value of this name; empty if there is none, or more than one."""
    try:
        values = parse_qs(form, max_num_fields=8).get(name, [])
    except ValueError:
        return ""
    return values[0] if len(values) == 1 else ""


def _note(status: int, title: str, sentence: str, base: str = "") -> Response:
    return _page("note.html", status, {}, base=base, title=title, sentence=sentence)


def _page(template: str, status: int, headers: Mapping[str, str], **values: Any) -> Response:
    html = _templates().get_template(template).render(values, version=__version__)
    return Response(status, html.encode(), headers=headers)


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter in (words.moment, words.size, words.figure, words.counted, words.meaning):
        templates.filters[filter.__name__] = filter
    return templates


@lru_cache(maxsize=len(_ASSETS))
def _asset(name: str) -> bytes:
    return (files(__package__) / "static" / name).read_bytes()
