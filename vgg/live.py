"""The live view: a page on 127.0.0.1 that shows a film and its heatmaps, and lets a paused picture be patched."""

from __future__ import annotations

import base64
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from explaining import Explaining, Finding, Shot
from patches import FILLS, MOST, checked, patched, sides
from views import View

from lrp_tf import heatmap
from lrp_tf.files.errors import LoadError, optional

HERE = Path(__file__).resolve().parent
FILES = {
    "": ("live.html", "text/html"),
    "live.js": ("live.js", "text/javascript"),
    "live.css": ("live.css", "text/css"),
}
ADDRESS = "127.0.0.1"
LARGEST_REQUEST = 64_000  # bytes; 200 patches take 16,000
MOST_STREAMS = 8  # at once
REPEAT = 3.0  # seconds; a picture that stays is sent again: only writing shows that a browser has gone
# Nothing but the page's own files and pictures in it; no other page may frame it or show its stream.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Now(NamedTuple):
    """What the page shows."""

    view: View
    shot: Shot
    finding: Finding
    scale: float
    rate: float
    number: int


def listening(port: int) -> socket.socket:
    """A socket on this machine alone.

    Raises:
        LoadError: the port is taken, or not allowed.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LoadError(
            f"--serve {port}: the port cannot be used ({reason}). Expected a free port, 8000 for instance; 0 takes any"
        ) from error


class Page:
    """Serves the page; other threads show pictures.

    Args:
        name: of the source.
        dropped: how many frames were, by now.
        aspect: width over height of a picture.

    Attributes:
        paused: whether the film rests.
    """

    def __init__(self, explaining: Explaining, name: str, aspect: float, dropped: Callable[[], int]) -> None:
        self.explaining, self.name, self.dropped, self.aspect = explaining, name, dropped, aspect
        self.paused = threading.Event()
        self.ended = ""
        self._now: Now | None = None
        self._changed, self._closed, self._streams = threading.Condition(), False, 0
        self._before: tuple[tuple, Finding] | None = None
        self._server: Any = None

    def show(self, view: View, shot: Shot, finding: Finding, scale: float, rate: float, number: int) -> None:
        """Show a frame: its view, what it was made of, and which it is. While the film rests, the picture stays."""
        with self._changed:
            if self.paused.is_set() and self._now is not None:  # one that was on its way
                return
            self._now = Now(view, shot, finding, scale, rate, number)
            self._changed.notify_all()

    def rest(self, paused: bool) -> None:
        """Pause or resume; no picture comes between this and what is asked next."""
        with self._changed:
            (self.paused.set if paused else self.paused.clear)()

    def end(self, reason: str) -> None:
        """The source has ended; the last picture stays."""
        self.ended = reason
        self.paused.set()

    def start(self, listener: socket.socket) -> str:
        """Serve in a thread; returns the address."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, *_: object) -> None:
                """Requests are not worth a line."""

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        port = listener.getsockname()[1]
        app = make_app(self, port)
        self._server = make_server(ADDRESS, port, app, threaded=True, request_handler=Quiet, fd=listener.fileno())
        listener.close()  # the server has its own copy
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True).start()
        return f"http://{ADDRESS}:{port}/"

    def close(self) -> None:
        """End streams and the server."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    # --- what requests ask for -----------------------------------------------------------------

    def stream(self, layout: str) -> Iterator[bytes]:
        """Parts of multipart/x-mixed-replace, one for each frame."""
        if self._streams >= MOST_STREAMS:
            raise LoadError(f"Expected at most {MOST_STREAMS} views at once. Remedy: close one")
        return self._parts(layout)

    def _parts(self, layout: str) -> Iterator[bytes]:
        shown: Now | None = None
        with self._changed:  # requests come in threads of their own
            if self._streams >= MOST_STREAMS:
                return
            self._streams += 1
        try:
            yield b"--frame\r\n"
            while True:
                if (shown := self._next(shown)) is None:
                    return
                jpeg = shown.view.jpeg(layout)
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                # Browsers show a part once they see the border behind it.
                yield head + jpeg + b"\r\n--frame\r\n"
        finally:
            with self._changed:
                self._streams -= 1

    def _next(self, shown: Now | None) -> Now | None:
        """What comes after `shown`, or `shown` again after REPEAT; None: the page is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._now is not shown, None if shown is None else REPEAT)
            return None if self._closed else self._now

    def state(self) -> dict[str, object]:
        """What the page writes beside the film."""
        now, explaining = self._now, self.explaining
        side = sides((explaining.form.height, explaining.form.width))
        about = {
            "source": Path(self.name).name,
            "model": explaining.explainer.model.name,
            "composite": explaining.explainer.composite.name,
            "paused": self.paused.is_set(),
            "ended": self.ended,
            "dropped": self.dropped(),
            "wanted": None if explaining.wanted == "top1" else explaining.wanted,
            "size": [explaining.form.height, explaining.form.width],
            "aspect": self.aspect if explaining.fit.how == "squash" else explaining.form.width / explaining.form.height,
            "sides": side,
            "most": MOST,
            "fills": FILLS,
        }
        if now is None:
            return about | {"number": 0, "top": []}
        top = [self._class(now.finding, index) for index in now.finding.best]
        return about | {"number": now.number, "rate": now.rate, "time": now.shot.time, "top": top}

    def want(self, target: object) -> None:
        """Explain that class from now on; None: each frame's top class."""
        count = len(self._shown().finding.logits)
        if target is not None and (type(target) is not int or not 0 <= target < count):
            raise LoadError(f"Expected a class from 0 to {count - 1}, or null. Received: {str(target)[:40]}")
        self.explaining.wanted = "top1" if target is None else target

    def edited(self, entries: object) -> dict[str, object]:
        """The paused picture with patches: numbers before and after, picture and map as data: addresses."""
        now, explaining = self._shown(), self.explaining
        if not self.paused.is_set():
            raise LoadError("Expected a paused film. Remedy: pause it")
        found = checked(entries, now.shot.fitted.shape[:2])
        wanted = explaining.wanted
        before = self._unpatched(now, wanted)
        picture = patched(now.shot.fitted, found)
        after = before
        if found:
            (after,) = explaining(explaining.fed([picture]), before.target)
        drawn = {**vars(explaining.paint), "scale": now.scale, "smooth": None, "stride": None}
        order = sorted({*before.best, *after.best, before.target}, key=lambda index: -after.logits[index])
        return {
            "number": now.number,
            "target": before.target,
            "before": self._class(before, before.target) | {"top": explaining.name(before.best[0])},
            "after": self._class(after, before.target) | {"top": explaining.name(after.best[0])},
            "classes": [
                self._class(after, i) | {"before": before.chance(i), "before_score": float(before.logits[i])}
                for i in order
            ],
            "warning": after.warning,
            "patches": len(found),
            "picture": _data(picture),
            "map": _data(heatmap.to_rgb(after.values, **drawn)),
            "scale": now.scale,
            "signed": explaining.paint.show == "signed",
        }

    def _unpatched(self, now: Now, wanted: str | int) -> Finding:
        key = (now.number, wanted)
        known = self._before
        if known is None or known[0] != key:
            (finding,) = self.explaining(self.explaining.fed([now.shot.fitted]), wanted)
            known = self._before = (key, finding)
        return known[1]

    def _shown(self) -> Now:
        if self._now is None:
            raise LoadError("Expected a picture. Received: none so far. Remedy: wait for the first")
        return self._now

    def _class(self, finding: Finding, index: int) -> dict[str, object]:
        return {
            "class": index,
            "name": self.explaining.name(index),
            "chance": finding.chance(index),
            "score": float(finding.logits[index]),
        }


def _data(pixels: np.ndarray) -> str:
    png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def require_flask() -> Any:
    """The module `flask`.

    Raises:
        ExtraError: it is not installed.
    """
    return optional("flask", extra="video", what="which serves the live page")


def make_app(page: Page, port: int) -> Any:
    """The application of Flask: pages and pictures by GET, all that changes something by POST of JSON."""
    flask = require_flask()
    app = flask.Flask("live", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    names = (ADDRESS, "localhost")
    hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())

    @app.before_request
    def only_the_page() -> Any:
        """Refuse what other pages in the same browser ask for, under a name of their own or ours."""
        request = flask.request
        if request.host not in hosts:  # a name that was made to point here
            return flask.Response("unknown host", 403)
        if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
            return flask.Response("another origin", 403)
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return flask.Response("another site", 403)
        if request.method == "POST" and request.mimetype != "application/json":
            return flask.Response("expected JSON", 415)
        return None

    @app.after_request
    def close_off(response: Any) -> Any:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(LoadError)
    def refused(error: LoadError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 400

    _add_routes(app, page)
    return app


def _add_routes(app: Any, page: Page) -> None:
    flask = require_flask()

    @app.get("/", defaults={"name": ""})
    @app.get("/<name>")
    def file(name: str) -> Any:
        if name not in FILES:
            return flask.Response("no such page", 404)
        path, kind = FILES[name]
        return flask.Response((HERE / path).read_bytes(), content_type=f"{kind}; charset=utf-8")

    @app.get("/stream/<any(row, column):layout>")
    def stream(layout: str) -> Any:
        return flask.Response(page.stream(layout), content_type="multipart/x-mixed-replace; boundary=frame")

    @app.get("/state")
    def state() -> Any:
        return page.state()

    def sent(name: str) -> Any:
        try:
            content = flask.request.get_json()
        except RecursionError as error:
            raise LoadError("Expected JSON of a few levels. Received: brackets too deep to read") from error
        if not isinstance(content, dict) or set(content) != {name}:
            raise LoadError(f'Expected {{"{name}": ...}}. Received: {str(content)[:80]}')
        return content[name]

    @app.post("/pause")
    def pause() -> Any:
        if not isinstance(wanted := sent("paused"), bool):
            raise LoadError(f"Expected true or false. Received: {str(wanted)[:40]}")
        page.rest(wanted or bool(page.ended))
        return page.state()

    @app.post("/target")
    def target() -> Any:
        page.want(sent("target"))
        return page.state()

    @app.post("/patches")
    def patches() -> Any:
        return page.edited(sent("patches"))
