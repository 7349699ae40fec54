"""Live steering: on this machine alone, for its own page alone, one picture at a time."""

import dataclasses
import http.client
import json
import re
import threading
import time
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from interp import load
from interp.cli import main
from interp.dashboards import Dial, Live, LiveSAE, build_dashboard, make_server
from interp.errors import InputError
from interp.interventions import LIVE_RANGES, make_renderer
from interp.sae import TopK
from tests.dashboards.synthetic_alignment import alignment
from tests.interventions.linear_toy import RECIPE, SIDE, draw_rows, make_sae, make_toy

DIGEST = "0123456789abcdef"
GOOD = {"sae": DIGEST, "feature": 2, "mode": "add", "strength": 0.5, "seed": 7}
DIALS = {mode: Dial(*ends) for mode, ends in LIVE_RANGES.items()}


def paint(request) -> np.ndarray:
    """A picture that tells what was asked for."""
    color = (request.feature, request.seed, round(100 * request.strength))
    return np.full((4, 6, 3), color, np.uint8)


def make_live(render=paint) -> Live:
    return Live("a model", {DIGEST: LiveSAE("mid", 10)}, DIALS, render, {"steps": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    page = build_dashboard(
        tmp_path_factory.mktemp("page") / "it", alignments=[alignment(n_blocks=2)]
    )
    outside = page.parent.parent
    (outside / "secret.txt").write_text("secret")
    (page.parent / "link").symlink_to(outside)
    (page.parent / "linked.txt").symlink_to(outside / "secret.txt")
    (page.parent / "own").mkdir()
    (page.parent / "own" / "index.html").symlink_to(outside / "secret.txt")
    return page.parent


@contextmanager
def serving(folder, live):
    with make_server(folder, live=live) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Client(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


class Client:
    """Requests with the headers of the served page, unless told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.token = ""

    def ask(self, method, path, body=None, **headers):
        given = {"Host": self.host} | {k.replace("_", "-"): v for k, v in headers.items()}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        link.putrequest(method, path, skip_host=True)
        if body is not None and "Content-Length" not in given:
            given["Content-Length"] = str(len(body))
        for name, value in given.items():
            if value is not None:
                link.putheader(name, value)
        link.endheaders(body)
        answer = link.getresponse()
        content = answer.read()
        link.close()
        return answer, content

    def open(self) -> str:
        """The page; takes its token."""
        page = self.ask("GET", "/")[1].decode()
        self.token = re.findall(r'name="interp-live" content="([^"]+)"', page)[0]
        return page

    def render(self, request=None, **headers):
        body = json.dumps(GOOD if request is None else request).encode()
        more = {"Content_Type": "application/json", "X_Interp_Token": self.token}
        more |= {"Origin": f"http://{self.host}", "Sec_Fetch_Site": "same-origin"}
        return self.ask("POST", "/live/render", body, **(more | headers))


@pytest.fixture(scope="module")
def client(folder):
    with serving(folder, make_live()) as one:
        one.open()
        yield one


def test_a_picture_is_what_was_asked_for(client) -> None:
    answer, content = client.render()
    assert answer.status == 200
    assert answer.getheader("Content-Type") == "image/png"
    picture = np.asarray(Image.open(BytesIO(content)))
    assert picture.shape == (4, 6, 3)
    assert picture[0, 0].tolist() == [2, 7, 50]


def test_the_page_gets_its_panel_and_a_policy_that_reaches_its_own_server_alone(
    client, folder
) -> None:
    static = (folder / "index.html").read_text()
    page = client.open()
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)[0]
    before = re.findall(r'Content-Security-Policy" content="([^"]+)"', static)[0]
    assert policy == before.replace("connect-src 'none'", "connect-src 'self'")
    assert "default-src 'none'" in policy
    assert page.index('src="live/live.js"') < page.index('src="bundle/assets/main.js"')
    assert "live" not in "".join(re.findall(r"<(?:script|link)[^>]*>", static))
    assert client.ask("GET", "/index.html")[1].decode() == page
    for name, kind in (("live.js", "text/javascript"), ("live.css", "text/css")):
        answer, content = client.ask("GET", f"/live/{name}")
        assert answer.getheader("Content-Type").startswith(kind)
        assert len(content) > 100


def test_the_server_says_what_can_be_steered(client) -> None:
    answer, content = client.ask("GET", "/live/about", X_Interp_Token=client.token)
    said = json.loads(content)
    assert answer.status == 200
    assert said["saes"] == {DIGEST: {"point": "mid", "n_latents": 10}}
    assert said["dials"]["suppress"]["high"] == 1
    assert said["settings"] == {"steps": 2}
    assert said["seed"] == 0


def test_a_server_without_live_steering_has_none_of_it(folder) -> None:
    with serving(folder, None) as one:
        page = one.ask("GET", "/")[1]
        assert page == (folder / "index.html").read_bytes()
        assert one.ask("GET", "/live/live.js")[0].status == 404
        assert one.ask("GET", "/live/about")[0].status == 404
        assert one.render()[0].status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", None, "127.0.0.1.evil.x",
                                  "127.0.0.1:80@evil.x", "[::1]", "user@127.0.0.1",
                                  "localhost", "localhost:1", "127.0.0.1:80"])  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/bundle/data/meta.js", "/live/about"])
def test_another_host_name_is_refused(client, host, path) -> None:
    answer, content = client.ask("GET", path, Host=host, X_Interp_Token=client.token)
    assert answer.status == 403
    assert "127.0.0.1 and localhost alone" in json.loads(content)["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"X_Interp_Token": "guess"},
        {"X_Interp_Token": None},
        {"X_Interp_Token": "\xe9"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    ],
)
def test_a_page_of_another_origin_cannot_have_a_picture(client, headers) -> None:
    answer, content = client.render(**headers)
    assert answer.status == 403
    assert "error" in json.loads(content)


def test_data_are_not_for_scripts_of_other_pages_but_links_lead_here(client) -> None:
    path = "/bundle/data/meta.js"
    assert client.ask("GET", path)[0].status == 200
    embedded = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert client.ask("GET", path, **embedded)[0].status == 403
    answer, _ = client.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert answer.status == 200
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sae": "else"}, "not one of the 1 that this server steers"),
        ({"sae": [1]}, "not one of the 1"),
        ({"feature": 10}, "the feature has to be a whole number from 0 to 9"),
        ({"feature": -1}, "from 0 to 9"),
        ({"feature": True}, "from 0 to 9"),
        ({"feature": 1.0}, "from 0 to 9"),
        ({"mode": "push"}, "the mode is not one of add, clamp, suppress, scale"),
        ({"mode": {}}, "the mode is not one of"),
        ({"strength": 2.5}, "a number from -2 to 2"),
        ({"strength": float("nan")}, "a number from -2 to 2"),
        ({"strength": "1"}, "a number from -2 to 2"),
        ({"strength": 10**400}, "a number from -2 to 2"),
        ({"mode": "suppress", "strength": -0.1}, "a number from 0 to 1"),
        ({"seed": -1}, "the seed has to be a whole number from 0 to 2147483647"),
        ({"seed": 2**31}, "from 0 to 2147483647"),
        ({"height": 9999}, "exactly sae, feature, mode, strength, seed"),
    ],
)
def test_a_request_out_of_bounds_is_refused_in_words(client, change, said) -> None:
    answer, content = client.render(GOOD | change)
    assert answer.status == 400
    assert answer.getheader("Content-Type") == "application/json"
    assert said in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[" * 4000, {}, 400),
        (b"nonsense", {}, 400),
        (b"3", {}, 400),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"x" * 4097, {}, 413),
        (b"", {"Content_Length": "9" * 40}, 413),
        (b"", {"Content_Length": "-1"}, 411),
        (b"", {"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, body, headers, status) -> None:
    more = {"Content_Type": "application/json", "X_Interp_Token": client.token}
    answer, content = client.ask("POST", "/live/render", body, **(more | headers))
    assert answer.status == status
    assert "error" in json.loads(content)


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/bundle/../../secret.txt", "/live/../../secret.txt",
     "/live/%2e%2e/%2e%2e/secret.txt", "/live/..%2fcore.js", "//secret.txt", "/live/core.js",
     "/..%5csecret.txt", "/live/", "/link/secret.txt", "/linked.txt", "/own/", "/link/", "/%00",
     "http://[evil", "/bundle/%00/../index.html", "/" + "x/" * 2000],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(client, path) -> None:
    answer, content = client.ask("GET", path)
    assert answer.status in (400, 404)
    assert b"secret" not in content


def test_only_get_and_post_are_answered_and_post_renders_alone(client) -> None:
    assert client.ask("OPTIONS", "/live/render")[0].status == 501
    assert client.ask("PUT", "/live/render", b"")[0].status == 501
    assert client.ask("POST", "/", b"")[0].status == 404
    assert client.ask("HEAD", "/bundle/data/meta.js")[0].status == 200


def test_one_picture_is_made_at_a_time(folder) -> None:
    begun, done = threading.Event(), threading.Event()

    def slow(request):
        begun.set()
        assert done.wait(20)
        return paint(request)

    with serving(folder, make_live(slow)) as one:
        one.open()
        found = []
        thread = threading.Thread(target=lambda: found.append(one.render()[0].status))
        thread.start()
        assert begun.wait(20)
        answer, content = one.render()
        assert answer.status == 429
        assert "another picture is being made" in json.loads(content)["error"]
        done.set()
        thread.join()
        assert found == [200]
        assert one.render()[0].status == 200


@pytest.mark.parametrize(
    ("render", "status", "said"),
    [
        (lambda request: np.zeros((2, 2), np.uint8), 400, "not uint8"),
        (lambda request: (_ for _ in ()).throw(InputError("too much")), 400, "too much"),
        (lambda request: 1 / 0, 500, "the model failed: ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_in_the_model_is_said_and_the_server_goes_on(
    folder, render, status, said, capsys
) -> None:
    with serving(folder, make_live(render)) as one:
        one.open()
        for _ in range(2):
            answer, content = one.render()
            assert answer.status == status
            assert said in json.loads(content)["error"]
    err = capsys.readouterr().err
    # The answer is out before the server's thread writes what went wrong.
    for _ in range(100):
        if status != 500 or "ZeroDivisionError" in err:
            break
        time.sleep(0.05)
        err += capsys.readouterr().err
    assert ("ZeroDivisionError" in err) == (status == 500)


def test_the_command_says_what_it_loads_and_starts_far_from_training_seeds(
    folder, tmp_path, monkeypatch, capsys
) -> None:
    gan = load("zoo:gan")
    sae = TopK(128, 16, 2)
    sae.provenance = {"point": gan.points["w"].as_dict()}
    sae.save(tmp_path / "w")
    served = []

    def stand_in(path, port, *, live=None, ready) -> None:
        served.append(live)
        ready("http://127.0.0.1:1/")

    monkeypatch.setattr("interp.dashboards.serve", stand_in)
    words = ["dashboard", "serve", str(folder)]
    assert main([*words, "--live", "zoo:gan", "--sae", str(tmp_path / "w"), "--n", "40"]) == 0
    assert capsys.readouterr().out == (
        "loading zoo:gan ...\nsteering zoo:gan at http://127.0.0.1:1/; Ctrl-C stops\n"
    )
    assert served[0].about()["seed"] == 1_000_040
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("at http://127.0.0.1:1/; Ctrl-C stops\n")


def test_a_page_of_another_version_is_refused_before_serving(tmp_path) -> None:
    (tmp_path / "index.html").write_text("<html></html>")
    with pytest.raises(InputError, match="build the dashboard again"):
        make_server(tmp_path, live=make_live())
    with pytest.raises(InputError, match="needs an SAE"):
        Live("m", {}, DIALS, paint)
    with pytest.raises(InputError, match="the seed has to be a whole number"):
        dataclasses.replace(make_live(), seed=-1)


def test_a_model_is_steered_as_the_library_steers_it(folder) -> None:
    model, weight = make_toy()
    sae = make_sae()
    sae.provenance = {"point": model.point("hidden").as_dict()}
    render = make_renderer(model, [sae], RECIPE.__class__(n=64, seed=500))
    live = Live(
        model.name, {sae.digest: LiveSAE("hidden", sae.n_latents)}, DIALS, lambda r: render(*r)
    )
    with serving(folder, live) as one:
        one.open()
        wanted = {"sae": sae.digest, "feature": 3, "mode": "suppress", "strength": 1, "seed": 5}
        _, content = one.render(wanted)
        row = draw_rows([5]).double()
        row[0, 3] = row[0, 3].clamp_max(0)
        want = (row @ weight.T + 128).reshape(SIDE, SIDE, 3).numpy()
        assert np.array_equal(np.asarray(Image.open(BytesIO(content))), want)
        _, content = one.render(wanted | {"mode": "add", "strength": 0})
        plain = (draw_rows([5]).double() @ weight.T + 128).reshape(SIDE, SIDE, 3).numpy()
        assert np.array_equal(np.asarray(Image.open(BytesIO(content))), plain)
    with pytest.raises(InputError, match="does not say which point"):
        make_renderer(model, [make_sae()], RECIPE)
    with pytest.raises(InputError, match="no SAE to steer by"):
        make_renderer(model, [], RECIPE)
    with pytest.raises(InputError, match="is not one of"):
        render("else", 0, "add", 0.0, 1)
