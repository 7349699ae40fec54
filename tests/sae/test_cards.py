"""Cards tell what an SAE is; what is pushed is read again, also from a folder in place of a hub."""

import http.server
import json
import threading
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.errors import SAEError
from interp.sae import SAE, load_sae, train
from interp.sae.cards import model_card, push_to_hub
from interp.sae.config import TrainConfig
from interp.sae.evaluate import evaluate
from tests.sae.formats.made import rows, trained
from tests.sae.stores import make_store

RECORD = {
    "point": "mid",
    "n_rows": 10,
    "n_generations": 5,
    "fvu": 0.25,
    "l0": 3.0,
    "dead": 0.125,
    "trained_rows": False,
    "baselines": [{"name": "pca", "fvu": 0.5, "k": 3}, {"name": "none", "fvu": None, "k": 3}],
}


def metadata(text):
    from huggingface_hub import ModelCard

    return ModelCard(text).data


def test_the_front_matter_is_what_the_hub_reads():
    sae = trained("topk")
    sae.provenance = {
        "point": {"name": "mid"},
        "model": {"spec": "diffusers:stabilityai/sdxl-turbo#unet", "weights_sha256": "ab" * 32},
    }
    text = model_card(sae, name="me/mid", evaluation=RECORD, license="apache-2.0")
    data = metadata(text)
    assert data.library_name == "interp"
    assert data.license == "apache-2.0"
    assert data.base_model == "stabilityai/sdxl-turbo"
    assert {"sparse-autoencoder", "topk"} <= set(data.tags)
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    assert found == {"fvu": 0.25, "l0": 3.0, "dead": 0.125}
    assert 'load_sae("me/mid")' in text
    assert "| hook point | mid |" in text
    assert "images and seeds not trained on" in text
    assert "| pca | 0.5 | 3 |" in text


def test_a_card_without_anything_known_is_still_one():
    text = model_card(trained("relu"))
    assert metadata(text).library_name == "interp"
    assert "## Quality" not in text


def test_names_of_strangers_cannot_break_the_card():
    sae = trained("topk")
    sae.provenance = {"point": {"name": "a|b\n---\n# <script>`x`"}, "model": {"spec": "zoo:gan"}}
    text = model_card(sae, name="me/x", evaluation=RECORD | {"point": "p\n# q"})
    assert "\n# <script>" not in text
    assert "\n# q" not in text
    assert text.count("\n---\n") == 1
    assert metadata(text).base_model is None


def test_a_record_that_is_no_evaluation_is_refused():
    with pytest.raises(SAEError, match="no evaluation: it has no fvu, l0, dead"):
        model_card(trained("topk"), evaluation={"point": "mid"})


@pytest.mark.parametrize("format", ["interp", "saelens", "dictionary_learning", "sparsify"])
def test_what_is_pushed_is_loaded_by_its_hub_id(tmp_path, format):
    sae = trained("topk")
    place = push_to_hub(sae, "me/mid", evaluation=RECORD, format=format, local=tmp_path)
    assert Path(place) == tmp_path / "me" / "mid"
    back = SAE.from_pretrained("me/mid", local=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(back(rows()), sae(rows()), rtol=1e-6, atol=2e-6)
    assert json.loads((tmp_path / "me/mid/evaluation.json").read_text()) == RECORD
    if format == "interp":
        assert back.digest == sae.digest


def test_a_layout_of_one_file_is_found_in_its_repository(tmp_path):
    push_to_hub(trained("relu"), "me/one", format="openai", local=tmp_path)
    assert load_sae("me/one", local=tmp_path).variant == "relu"
    assert "The files are those of openai" in (tmp_path / "me/one/README.md").read_text()


def test_a_folder_of_a_repository_can_be_named(tmp_path):
    trained("topk").save(tmp_path / "me" / "many" / "layers.0")
    assert load_sae("me/many/layers.0", local=tmp_path).variant == "topk"
    with pytest.raises(SAEError, match=r"there is no layers\.1 in"):
        load_sae("me/many/layers.1", local=tmp_path)


@pytest.mark.parametrize("name", ["mid", "/me/mid", "me/mid/x", "../me", "me/.."])
def test_what_is_no_hub_id_is_refused(tmp_path, name):
    with pytest.raises(SAEError, match="is no hub id"):
        push_to_hub(trained("topk"), name, local=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["me/../../x", "../x/y", "me/x/../../y"])
def test_a_hub_id_does_not_leave_its_folder(tmp_path, name):
    with pytest.raises(SAEError, match="it is no hub id"):
        load_sae(name, local=tmp_path)


def test_without_a_network_a_hub_id_says_why():
    with pytest.raises(SAEError, match="me/nothing here, and it cannot be fetched from the hub: "):
        load_sae("me/nothing")


@pytest.mark.slow
def test_the_command_writes_the_card_of_a_run_with_its_evaluation(tmp_path, capsys):
    store = make_store(tmp_path / "stores")
    config = TrainConfig(n_latents=12, k=2, steps=5, batch_size=16, held_out=0.3)
    run = train(store, config, point="mid", out=tmp_path / "run")
    record = evaluate(run.sae, store, "mid").as_dict()
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(record))
    assert main(["sae", "card", str(tmp_path / "run"), "--name", "me/mid"]) == 0
    text = capsys.readouterr().out
    assert f"{record['fvu']:.4g}" in text
    assert "| hook point | mid |" in text
    words = ["sae", "push", str(tmp_path / "run"), "me/mid", "--local", str(tmp_path / "hub")]
    assert main(words) == 0
    assert load_sae("me/mid", local=tmp_path / "hub").digest == run.sae.digest


class _Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of a hub that one upload and one download need."""

    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def _place(self) -> str:
        return f"http://{self.headers['Host']}/me/mid"

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        import base64

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self._answer({"url": self._place()})
        elif "/preupload/" in self.path:
            wanted = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in wanted]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self._answer({"commitUrl": f"{self._place()}/commit/{'1' * 40}", "commitOid": "1" * 40})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            self.send_error(404)

    def do_GET(self, body: bool = True) -> None:
        name = self.path.split("/resolve/")[-1].partition("/")[2].partition("?")[0]
        if name in self.files:
            payload = self.files[name]
            self.send_response(200)
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", f'"{name}"')
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if body:
                self.wfile.write(payload)
        elif "/tree/" in self.path:
            sizes = {name: len(payload) for name, payload in self.files.items()}
            tree = [{"type": "file", "path": p, "size": n, "oid": p} for p, n in sizes.items()]
            self._answer(tree)
        elif self.path.startswith("/api/models/me/mid"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer({"id": "me/mid", "sha": "1" * 40, "siblings": siblings})
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)


HUB_CODE = """
from interp.sae import TopK, load_sae
from interp.sae.cards import push_to_hub
sae = TopK(6, 24, 3, seed=4)
print(push_to_hub(sae, "me/mid", token="hf_x"))
print(load_sae("me/mid").digest == sae.digest)
"""


@pytest.mark.slow
def test_the_hub_protocol_carries_an_sae_up_and_down(tmp_path, python):
    class Hub(_Hub):
        files: dict[str, bytes] = {}  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        said = python(
            HUB_CODE,
            HF_ENDPOINT=address,
            HF_HUB_OFFLINE="0",
            HF_HOME=str(tmp_path),
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            NO_PROXY="127.0.0.1",
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert said.splitlines()[-1] == "True"
    assert {"README.md", "config.json", "sae.safetensors"} <= set(Hub.files)
