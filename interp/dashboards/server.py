"""The bundle over HTTP, for browsers that restrict `file://` and for live steering: here only."""

import secrets
import threading
from collections.abc import Callable
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from interp.dashboards.live import Live, open_page
from interp.dashboards.live_handler import Desk, Handler
from interp.errors import InputError

# Nothing outside this machine may connect, whatever the firewall says.
HOST = "127.0.0.1"


def make_server(
    path: str | Path, port: int = 0, *, live: Live | None = None
) -> ThreadingHTTPServer:
    """Return a server of a dashboard on 127.0.0.1, not yet running; port 0 takes a free one.

    Its address is `server.server_address`; `server.serve_forever()` runs it. It answers to the
    names 127.0.0.1 and localhost with its own port alone, and to no page of another origin. Links
    in the folder that lead out of it are not followed.

    Args:
        path: folder of the dashboard, or its index.html.
        port: on 127.0.0.1.
        live: what may be steered; its panel then stands on the pages of its SAEs' features. One
            picture is made at a time.

    Raises:
        InputError: the folder holds no dashboard, or one of another version, or the port is taken
            or out of range.
    """
    path = Path(path)
    folder = path.parent if path.name == "index.html" else path
    index = folder / "index.html"
    if not index.exists():
        raise InputError(f"{folder} holds no index.html; build a dashboard there first")
    desk = Desk(folder, live, secrets.token_urlsafe(24), threading.Lock())
    if live is not None:
        # A page of another version is refused now, not at the first request.
        open_page(index.read_text("utf-8"), desk.token)
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, desk=desk))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {HOST}:{port} ({error}); choose another port"
        ) from error


def serve(
    path: str | Path,
    port: int = 8000,
    *,
    live: Live | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard at `path` on http://127.0.0.1:port until interrupted.

    ready: called with the address once the server listens.

    Raises:
        InputError: as `make_server`.
    """
    with make_server(path, port, live=live) as server:
        if ready is not None:
            ready(f"http://{HOST}:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
