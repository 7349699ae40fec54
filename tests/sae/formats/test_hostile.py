"""Damaged and hostile files of every layout: one clear error each, and nothing in them runs."""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.errors import SAEError
from interp.sae import load_sae, save_sae
from interp.sae.formats import FORMATS
from interp.sae.formats import reading as reading_module
from tests.sae.formats.made import D, M, imported

LAYOUTS = {
    "saelens": ("jumprelu", "none"),
    "dictionary_learning": ("gated", "none"),
    "sparsify": ("topk", "none"),
    "saeuron": ("topk", "layer"),
    "sdxl-unbox": ("topk", "none"),
    "openai": ("topk", "layer"),
    "saev": ("relu", "none"),
    "saev-0.1": ("relu", "none"),
    "overcomplete": ("jumprelu", "none"),
}
TORCH = [name for name in LAYOUTS if name not in ("saelens", "sparsify", "saeuron")]


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def written(tmp_path, request):
    layout = request.param
    path = tmp_path / ("x.pt" if layout in ("openai", "saev", "saev-0.1") else "x")
    return layout, save_sae(imported(*LAYOUTS[layout]), path, layout)


def every(*names):
    return pytest.mark.parametrize("written", names or list(LAYOUTS), indirect=True)


def weights_of(path):
    if path.is_file():
        return path
    return next(file for file in sorted(path.iterdir()) if file.suffix != ".json")


def config_of(path):
    return next(file for file in sorted(path.iterdir()) if file.suffix == ".json")


def read(layout, path):
    return load_sae(path, "saev" if layout == "saev-0.1" else layout)


def head_of(path):
    """saev's first line."""
    payload = path.read_bytes()
    return payload[: payload.index(b"\n") + 1] if payload.startswith(b"{") else b""


def state_of(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    import io

    return torch.load(io.BytesIO(path.read_bytes()[len(head_of(path)) :]), weights_only=True)


def put(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
        return
    head = head_of(path)
    with path.open("wb") as file:
        file.write(head)
        torch.save(state, file)


def change(path, edit):
    """Edit the tensors of any layout in place."""
    state = state_of(path)
    edit(state.get("state_dict", state))
    put(path, state)


def a_matrix(state):
    return next(name for name, value in state.items() if getattr(value, "ndim", 0) == 2)


@every()
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_weights_are_refused(written, share):
    layout, path = written
    file = weights_of(path)
    payload = file.read_bytes()
    file.write_bytes(payload[: int(share * len(payload))])
    with pytest.raises(SAEError, match=r"truncated|whole|line of JSON|not a file of"):
        read(layout, path)


@every(*TORCH)
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(written, tmp_path):
    layout, path = written
    file, target = weights_of(path), tmp_path / "ran"
    put(file, {"encoder.weight": torch.zeros(M, D), "x": Bomb(target)})
    with pytest.raises(SAEError, match="wants to run more than tensors; nothing of it was run"):
        read(layout, path)
    head = head_of(file)
    file.write_bytes(head + pickle.dumps({"x": Bomb(target)}))
    with pytest.raises(SAEError, match=r"wants to run|not a file of torch\.save|damaged"):
        read(layout, path)
    assert not target.exists()


@every()
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(written, value):
    layout, path = written

    def edit(state):
        state[a_matrix(state)][0, 0] = value

    change(weights_of(path), edit)
    with pytest.raises(SAEError, match="not finite"):
        read(layout, path)


@every()
def test_a_missing_tensor_is_named(written):
    layout, path = written
    change(weights_of(path), lambda state: state.pop(a_matrix(state)))
    with pytest.raises(SAEError, match=r"has no tensor|not one linear layer"):
        read(layout, path)


@every()
def test_a_tensor_of_another_shape_is_refused(written):
    layout, path = written

    def edit(state):
        for name, value in state.items():
            if getattr(value, "ndim", 0) == 1:
                state[name] = torch.zeros(len(value) + 1)

    change(weights_of(path), edit)
    with pytest.raises(SAEError, match=r"has shape \(\d+,\), expected"):
        read(layout, path)


@every()
def test_a_tensor_that_nobody_knows_is_not_left_out(written):
    layout, path = written
    change(weights_of(path), lambda state: state.update(W_skip=torch.zeros(D, D)))
    with pytest.raises(SAEError, match=r"also holds \['W_skip'\]"):
        read(layout, path)


@every()
def test_integers_are_no_weights(written):
    layout, path = written

    def edit(state):
        name = a_matrix(state)
        state[name] = state[name].to(torch.int64)

    change(weights_of(path), edit)
    with pytest.raises(SAEError, match=r"holds torch\.int64, not real numbers"):
        read(layout, path)


@every(*[name for name in TORCH if name != "openai"])
def test_a_shape_without_numbers_behind_it_is_refused(written):
    layout, path = written

    def edit(state):
        for name, value in state.items():
            if getattr(value, "ndim", 0) == 2:
                state[name] = torch.zeros(1).expand(value.shape)

    change(weights_of(path), edit)
    with pytest.raises(SAEError, match="but holds fewer numbers"):
        read(layout, path)


@every("saelens", "dictionary_learning", "sparsify", "saeuron", "sdxl-unbox", "overcomplete")
@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00", '"x"'])
def test_a_config_that_is_no_table_is_refused(written, text):
    layout, path = written
    config_of(path).write_text(text)
    with pytest.raises(SAEError, match=r"is not JSON|not a table"):
        read(layout, path)


@every("saelens", "dictionary_learning", "sparsify", "saeuron", "sdxl-unbox", "overcomplete")
def test_a_huge_config_is_refused_before_it_is_read(written, monkeypatch):
    layout, path = written
    monkeypatch.setattr(reading_module, "MAX_CONFIG_BYTES", 5)
    with pytest.raises(SAEError, match="more than 5"):
        read(layout, path)


@pytest.mark.parametrize(
    ("written", "key", "value", "message"),
    [
        ("saelens", "d_sae", M + 1, "d_sae = 25, but the weights have 24"),
        ("saelens", "d_in", "6", "d_in = '6' is not a whole number"),
        ("saelens", "architecture", "topk", "k = None|also holds"),
        ("saelens", "architecture", ["x"], "is not a word"),
        ("saelens", "architecture", "gated", "has no tensor 'b_gate'"),
        ("saelens", "apply_b_dec_to_input", 1, "neither true nor false"),
        ("saelens", "normalize_activations", {"a": 1}, "is not a word"),
        ("sparsify", "num_latents", 10**12, "is not a whole number from 0"),
        ("sparsify", "num_latents", M * 2, "num_latents = 48, but the weights have 24"),
        ("sparsify", "k", 0, "k = 0 is not a whole number"),
        ("sparsify", "k", M + 1, r"k = 25 is not in 1\.\.24"),
        ("sparsify", "k", True, "k = True is not a whole number"),
        ("sparsify", "k", 2.5, "k = 2.5 is not a whole number"),
        ("sparsify", "activation", "relu", "neither topk nor groupmax"),
        ("sparsify", "signed", True, "signed codes cannot be read"),
        ("saeuron", "input_unit_norm", "yes", "neither true nor false"),
        ("sdxl-unbox", "k", -1, "k = -1 is not a whole number"),
        ("sdxl-unbox", "d_model", 7, "d_model = 7, but the weights have 6"),
        ("overcomplete", "class", "QSAE", "'QSAE' of overcomplete cannot be read"),
        ("overcomplete", "normalization", "l3", "'l3' is not of"),
    ],
    indirect=["written"],
)
def test_a_config_that_says_something_else_is_refused(written, key, value, message):
    layout, path = written
    file = config_of(path)
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(SAEError, match=message):
        read(layout, path)


@every("dictionary_learning")
@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (None, "has no table 'trainer'"),
        ({"dict_class": "IdentityDict"}, "'IdentityDict' cannot be read"),
        ({"dict_class": "AutoEncoderTopK"}, "k = None|has no tensor"),
        ({"dict_class": "GatedAutoEncoder", "dict_size": 3}, "dict_size = 3"),
    ],
)
def test_a_trainer_of_another_class_is_refused(written, trainer, message):
    _, path = written
    config_of(path).write_text(json.dumps({"trainer": trainer}))
    with pytest.raises(SAEError, match=message):
        load_sae(path, "dictionary_learning")


@every("saev")
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{}\n" * 0 + b'{"schema": 6}\n', "schema 6 is unknown"),
        (b'{"schema": true}\n', "schema True is unknown"),
        (b'{"schema": 5, "cfg": 3}\n', "'cfg' is not a table"),
        (b'{"schema": 5, "cfg": {}}\n', "names no activation"),
        (b'{"schema": 5, "cfg": {"activation": {"cls": "os.system", "params": {}}}}\n', "unknown"),
        (b'{"schema": 5, "cfg": {"d_sae": 3}}\n', "d_sae = 3, but the weights have 24"),
        (b"[1]\n", "not a table"),
        (b"no newline", "not a file of torch.save|line of JSON|is not JSON"),
    ],
)
def test_a_hostile_first_line_is_refused(written, header, message):
    _, path = written
    payload = path.read_bytes()
    path.write_bytes(header + payload[payload.index(b"\n") + 1 :])
    with pytest.raises(SAEError, match=message):
        load_sae(path, "saev")


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_module, "MAX_CONFIG_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "8.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + bytes(1_000_000))
    with pytest.raises(SAEError, match="and unpacks to 1000002: refused"):
        load_sae(tmp_path / "8.pt")


def test_a_safetensors_header_that_lies_is_refused(tmp_path):
    save_sae(imported("topk"), tmp_path / "x", "sparsify")
    for head in (b"\xff" * 8, struct.pack("<Q", 10**9)):
        (tmp_path / "x" / "sae.safetensors").write_bytes(head + b"{}")
        with pytest.raises(SAEError, match="not a whole safetensors file"):
            load_sae(tmp_path / "x")


@pytest.mark.parametrize("what", [{"a": 1}, [torch.zeros(2)], torch.zeros(2), "text"])
def test_a_torch_file_of_something_else_says_what_it_holds(tmp_path, what):
    torch.save(what, tmp_path / "x.pt")
    with pytest.raises(SAEError, match=r"of no known layout; it holds|not a table of tensors"):
        load_sae(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.pkl", "x"])
def test_whole_modules_are_refused_with_the_way_to_convert(tmp_path, name):
    torch.save(torch.nn.Linear(2, 3), tmp_path / name)
    with pytest.raises(SAEError, match=r"nothing of it was run.*README"):
        load_sae(tmp_path / name)


def test_prisma_is_refused_with_the_way_to_convert(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "x.pt")
    with pytest.raises(SAEError, match="ViT-Prisma pickles its config"):
        load_sae(tmp_path / "x.pt", "prisma")


def test_nothing_and_no_known_thing_are_named(tmp_path):
    with pytest.raises(SAEError, match=r"there is no file or folder .*gone"):
        load_sae(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SAEError, match="of no known layout"):
        load_sae(tmp_path / "notes.txt")
    with pytest.raises(SAEError, match=r"of no known layout.*it holds \['notes.txt'\]"):
        load_sae(tmp_path)
    with pytest.raises(SAEError, match="no format 'keras'; there are auto, interp"):
        load_sae(tmp_path, "keras")


@pytest.mark.parametrize("layout", [name for name in FORMATS if name != "prisma"])
def test_a_named_format_says_what_is_missing(tmp_path, layout):
    with pytest.raises(SAEError, match=r"missing|has no|not a file|is not JSON"):
        load_sae(tmp_path, layout)
