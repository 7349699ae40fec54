"""The bundle over HTTP, for browsers that restrict `file://`: on this machine only."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from interp.errors import InputError

# Nothing outside this machine may connect, whatever the firewall says.
HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404, "No directory listing")

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a library does not print."""


def make_server(path: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a dashboard on 127.0.0.1, not yet running; port 0 takes a free one.

    Its address is `server.server_address`; `server.serve_forever()` runs it.

    Raises:
        InputError: the folder holds no dashboard, or the port is taken or out of range.
    """
    path = Path(path)
    folder = path.parent if path.name == "index.html" else path
    if not (folder / "index.html").exists():
        raise InputError(f"{folder} holds no index.html; build a dashboard there first")
    handler = partial(_Handler, directory=str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {HOST}:{port} ({error}); choose another port"
        ) from error


def serve(path: str | Path, port: int = 8000) -> None:
    """Serve the dashboard at `path` on http://127.0.0.1:port until interrupted.

    Raises:
        InputError: the folder holds no dashboard, or the port is taken or out of range.
    """
    with make_server(path, port) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
