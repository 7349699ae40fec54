"""Requests to a served dashboard: its files and, where it is live, pictures made on demand."""

import hmac
import json
import os
import threading
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from interp.dashboards.live import (
    MAX_BODY,
    Live,
    encode_picture,
    open_page,
    parse_request,
    read_asset,
)
from interp.errors import InterpError

# Names of this machine. Another name in the Host header is a page elsewhere whose name was made to
# point here (DNS rebinding).
NAMES = ("127.0.0.1", "localhost")
# A body of 4 KB from this machine takes no longer.
_SECONDS = 20


class Desk(NamedTuple):
    """What all requests of one server share."""

    folder: Path
    live: Live | None
    token: str
    """Stands in the served page, which no other origin can read; every request brings it."""
    busy: threading.Lock
    """Held while a picture is made."""


class Refusal(Exception):
    """A request that is answered by a status and one sentence."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Handler(SimpleHTTPRequestHandler):
    """Answers one connection; everything that is not expected is refused."""

    timeout = _SECONDS

    def __init__(self, *args: Any, desk: Desk) -> None:
        # The base class answers the request while it is constructed.
        self.desk = desk
        super().__init__(*args, directory=str(desk.folder))

    def do_GET(self) -> None:
        """Answer with a file of the dashboard, or with what live steering offers."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Answer as GET, without the content; of files alone."""
        self._answer(lambda: SimpleHTTPRequestHandler.do_HEAD(self))

    def do_POST(self) -> None:
        """Render one picture."""
        self._answer(self._post)

    def end_headers(self) -> None:
        """Add what every answer carries."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        # Scripts with data would otherwise be readable by pages that include them.
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        """List nothing."""
        self.send_error(404, "No directory listing")

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a library does not print."""

    def _answer(self, action: Any) -> None:
        try:
            self._check_origin()
            self._check_path()
            action()
        except Refusal as refusal:
            self._send_json(refusal.status, {"error": str(refusal)})
        except (ConnectionError, TimeoutError):
            # The reader has gone; there is nobody to tell.
            self.close_connection = True

    def _check_origin(self) -> None:
        """Refuse other names of this machine, and what pages of other origins ask for."""
        hosts = self.headers.get_all("Host") or []
        name, _, port = (hosts or [""])[0].partition(":")
        own = self.connection.getsockname()[1]
        # A name without a port means port 80.
        if len(hosts) != 1 or name.lower() not in NAMES or (port or "80") != str(own):
            raise Refusal(403, f"this server answers to {' and '.join(NAMES)} alone, port {own}")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise Refusal(403, "a page of another origin may not ask this server")
        site = self.headers.get("Sec-Fetch-Site", "none")
        # A link from elsewhere may lead here; nothing else from elsewhere may.
        leads = self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("none", "same-origin") and not leads:
            raise Refusal(403, "a page of another origin may not ask this server")

    def _check_path(self) -> None:
        """Refuse what is no path, and what a link in the folder leads out of it."""
        try:
            path = unquote(urlsplit(self.path).path)
        except ValueError as error:
            raise Refusal(400, f"the request names no path: {error}") from error
        if "\0" in path:
            raise Refusal(400, "the request names no path: there is a zero byte in it")
        root, place = os.path.realpath(self.desk.folder), self.translate_path(self.path)
        # A folder is answered with the index in it.
        for name in (".", "index.html", "index.htm"):
            found = os.path.realpath(Path(place) / name)
            if os.path.commonpath((root, found)) != root:
                raise Refusal(404, "there is no such file")

    def _get(self) -> None:
        live, path = self.desk.live, urlsplit(self.path).path
        if live is None or not (path in ("/", "/index.html") or path.startswith("/live/")):
            return super().do_GET()
        name = path.removeprefix("/live/")
        if name == path:
            page = (self.desk.folder / "index.html").read_text("utf-8")
            return self._send(200, open_page(page, self.desk.token), "text/html; charset=utf-8")
        if name == "about":
            self._check_token()
            return self._send_json(200, live.about())
        asset = read_asset(name)
        if asset is None:
            raise Refusal(404, "there is no such file")
        return self._send(200, *asset)

    def _post(self) -> None:
        live = self.desk.live
        # The body is read first: a connection that is closed with unread bytes loses the answer.
        body = self._read_body()
        if live is None or self.path != "/live/render":
            raise Refusal(404, "nothing is rendered here")
        self._check_token()
        if self.headers.get_content_type() != "application/json":
            raise Refusal(415, "the request has to be application/json")
        try:
            request = parse_request(body, live)
        except InterpError as error:
            raise Refusal(400, str(error)) from error
        if not self.desk.busy.acquire(blocking=False):
            raise Refusal(429, "another picture is being made: ask again when it is done")
        picture, failed = b"", None
        try:
            picture = encode_picture(live.render(request))
        except InterpError as error:
            raise Refusal(400, str(error)) from error
        except Exception as error:
            failed = error
        finally:
            # Before the answer, so that who has it may ask again at once.
            self.desk.busy.release()
        if failed is None:
            return self._send(200, picture, "image/png")
        self._send_json(500, {"error": f"the model failed: {type(failed).__name__}: {failed}"})
        raise failed

    def _check_token(self) -> None:
        given = self.headers.get("X-Interp-Token", "")
        if not hmac.compare_digest(given.encode(), self.desk.token.encode()):
            raise Refusal(403, "this page is of an earlier server: reload it")

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            raise Refusal(411, "the request needs a Content-Length")
        if len(length) > 9 or int(length) > MAX_BODY:
            self.close_connection = True
            raise Refusal(413, f"the request is longer than {MAX_BODY} bytes")
        return self.rfile.read(int(length))

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
