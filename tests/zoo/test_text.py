import math
from collections import Counter
from typing import Any

import pytest
import torch

import interp
from interp.errors import InputError
from interp.models import Encoding, Rows
from interp.zoo import text, text_tokens
from interp.zoo.cards import BIGRAM_MARGIN, Quality, evaluate_zoo, verdict
from interp.zoo.images import load_images
from interp.zoo.nets import build_net, find_weights, load_net
from interp.zoo.recipes import make_job
from interp.zoo.text_tokens import END, documents, encode, kneser_ney, ngram_bits, targets

WORDS = ("red apple: fruit, red", "green apple: fruit, green", "a red car: car, red")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return text_tokens.train_tokenizer(WORDS, size=270)


def test_documents_are_the_caption_with_its_tags_in_several_orders():
    images = load_images("glyphs", split="train", limit=20)
    found = documents(images)
    assert found == documents(images)
    for caption, tags, texts in zip(images.captions, images.tags, found, strict=True):
        assert len(texts) == text_tokens.VARIANTS
        assert texts[0] == f"{caption}: {', '.join(tags)}"
        assert texts[1] == caption
        assert all(tag in one for one in texts[2:] for tag in (*tags, caption))
    assert any(len(set(texts)) > 3 for texts in found)


def test_a_tokenizer_is_a_function_of_its_texts_and_loses_nothing(tokenizer):
    assert tokenizer.to_str() == text_tokens.train_tokenizer(WORDS, size=270).to_str()
    for one in ("red apple", "Ünknown 字 \U0001f600 text"):
        ids = tokenizer.encode(one).ids
        assert ids[0] == 0
        assert tokenizer.decode(ids).strip() == one
    wrapped = text_tokens.wrap_tokenizer(tokenizer.to_str(), length=6)
    rows = wrapped(["red", "a" * 50], padding="max_length", truncation=True)["input_ids"]
    assert [len(row) for row in rows] == [6, 6]
    assert rows[0][-1] == wrapped.pad_token_id == wrapped.bos_token_id == 0
    assert wrapped.eos_token == END


def test_rows_begin_and_end_with_the_mark_and_targets_count_the_end_once(tokenizer):
    rows = encode(tokenizer, ["red", "car"], 8)
    n = len(tokenizer.encode("red").ids)
    assert rows.shape == (2, 8)
    assert rows[0, n:].eq(0).all()
    follow = targets(rows)
    assert follow[0, n - 1] == 0
    assert follow[0, n:].eq(-100).all()
    assert follow[0, : n - 1].equal(rows[0, 1:n])


def test_smoothed_pairs_are_a_distribution_and_beat_single_tokens_where_pairs_matter():
    pairs = Counter({(0, 1): 3, (0, 2): 1, (1, 2): 2, (2, 0): 1})
    probability = kneser_ney(pairs, 5)
    for before in range(5):
        assert sum(probability(before, token) for token in range(5)) == pytest.approx(1)
    rows = torch.tensor([[0, 1, 2, 1, 2, 0, 0], [0, 2, 1, 2, 1, 0, 0]])
    unigram, bigram = ngram_bits(rows, rows, size=5)
    assert bigram < unigram < math.log2(5) + 0.1


def test_bits_per_token_of_a_network_that_knows_nothing_are_those_of_the_vocabulary():
    net: Any = build_net("text", n_classes=3)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    rows = torch.tensor([[0, 5, 6, 0, 0], [0, 7, 0, 0, 0]])
    assert text.bits_per_token(net, rows) == pytest.approx(math.log2(text_tokens.VOCABULARY))


def test_the_network_is_small_and_causal():
    net: Any = build_net("text", n_classes=3)
    assert sum(p.numel() for p in net.parameters()) <= 0.6e6
    rows = torch.arange(1, 9)[None]
    other = rows.clone()
    other[0, 5:] = 99
    with torch.no_grad():
        a, b = (text.hidden_states(net, x) for x in (rows, other))
    assert a.shape == (1, 8, text.GPT["n_embd"])
    assert torch.allclose(a[:, :5], b[:, :5], atol=1e-6)
    assert not torch.allclose(a[:, 5:], b[:, 5:])


def test_a_step_learns_a_few_texts_and_leaves_the_global_random_state_alone(tokenizer):
    job = make_job("text", n_classes=3, batch_size=3)
    rows = torch.stack([encode(tokenizer, [one, one], 24) for one in WORDS])
    before = torch.get_rng_state()
    losses = [float(job.step(job, rows, torch.zeros(3), 0.0)["loss"]) for _ in range(12)]
    assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == pytest.approx(math.log(text_tokens.VOCABULARY), rel=0.1)
    assert losses[-1] < losses[0] - 1
    assert {m.p for m in job.nets["text"].modules() if isinstance(m, torch.nn.Dropout)} == {0.2}


def test_a_language_model_that_is_no_better_than_pairs_is_undertrained():
    assert not verdict(Quality(n=1, bits_per_token=5.0, bits_bigram=5.3)).undertrained
    judged = verdict(Quality(n=1, bits_per_token=5.2, bits_bigram=5.3))
    assert judged.reasons == (
        "5.20 bits per held-out token, a bigram model needs 5.30 (limit 0.25 less)",
    )


def test_weights_of_other_networks_hold_no_tokenizer():
    with pytest.raises(InputError, match="holds no tokenizer"):
        text_tokens.read_tokenizer(find_weights("vit"))


@pytest.mark.slow
def test_the_bridge_computes_what_the_network_computes_and_shows_the_stream_of_the_text():
    net, _ = load_net("text")
    model: Any = interp.load("zoo:text")
    rows = text.load_tokenizer()("red apple: fruit", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.allclose(model.root(rows), net(rows).logits, atol=1e-4)
    assert {point.stream for point in model.points.values()} == {"text"}
    assert {point.width for point in model.points.values()} == {text.GPT["n_embd"]}
    assert list(model.points)[-1] == f"blocks.{text.GPT['n_layer'] - 1}.hook_out"
    twin = interp.load("zoo:text", untrained=True, seed=1)
    assert twin.identity()["weights_sha256"] != model.identity()["weights_sha256"]


@pytest.mark.slow
def test_captions_of_any_length_are_captured_as_their_mean(tmp_path):
    recipe = Encoding(limit=4, condition="caption", batch_size=1)
    rows = Rows(positions="mean")
    store = interp.capture(
        interp.load("zoo:text"), "all", recipe, out=tmp_path, rows=rows, progress=False
    )
    assert store.rows("blocks.3.hook_out").shape == (4, text.GPT["n_embd"])


@pytest.mark.slow
def test_the_shipped_tokenizer_is_that_of_the_training_captions():
    made = text.tokenizer_of(load_images("glyphs", split="train")).to_str()
    assert made == text_tokens.read_tokenizer(find_weights("text"))


@pytest.mark.slow
def test_its_quality_stands_beside_models_of_tokens_and_of_pairs():
    measured = evaluate_zoo("text", n=200)
    assert measured.bits_per_token is not None
    assert measured.bits_bigram is not None
    assert measured.bits_unigram is not None
    assert measured.bits_per_token < measured.bits_bigram - BIGRAM_MARGIN
    assert measured.bits_bigram < measured.bits_unigram
