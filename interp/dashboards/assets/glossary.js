/* What the words of these pages mean: tooltips of headings, and the list under the ? button. */
"use strict";

INTERP.glossary = (function () {
  const { el } = INTERP;

  const TERMS = {
    row: "one activation vector: one position of one image at one noise level; where a point has no map, one image",
    latent: "one direction of a sparse autoencoder (SAE), with one number of 0 or more per row",
    density: "share of rows on which the latent is active",
    dense: "active on more than a tenth of all rows: says little about any one of them",
    dead: "active on none of the described rows",
    few: "active on fewer than 20 of the described rows: too little evidence for a name",
    "top category":
      "category with the largest mean activation, and its share of the sum over categories",
    entropy:
      "how spread the latent is over categories, in bits: 0 is one category only, log2 of their number is all alike",
    FVU: "fraction of variance unexplained, on held-out rows: 0 is perfect, 1 is no better than the mean row",
    L0: "mean number of active latents per row",
    damage:
      "how far the image moves when the SAE's reconstruction replaces the activations: 0 is no edit, 1 is as far as replacing them by their mean",
    baseline:
      "another code with as many coefficients per row: k-sparse PCA, or random directions. A useful SAE has a lower FVU",
    "log-SNR":
      "log of the ratio of signal to noise in the model's input, in nats: 2 is mostly image, −2 mostly noise",
    "@ −2": "behind the name of a layer: captured at log-SNR −2",
    cos: "cosine between the decoder directions of two latents: 1 is the same direction",
    Jaccard: "rows on which both latents are active, divided by rows on which either is",
    twin: "the same network with random weights, never trained: what the architecture and the images alone give",
    difference: "value minus the value of the untrained twins, with its 95 % interval",
    null: "the same measure after the pairing of images is permuted: mean ± standard deviation",
    z: "(value − mean of the null) / its standard deviation: a scale to rank on, not a p",
    "p (max-T, Holm)":
      "p of the pair of models: largest statistic over all its pairs of layers (max-T), then Holm over all pairs of models and measures",
    "95 % interval": "jackknife over clusters of images; it does not know that the cell was chosen",
    "best of": "number of cells this one was chosen from",
  };

  // Names of measures as people say them, and what each is.
  const MEASURES = {
    cka: ["debiased CKA", "cosine of the U-centered linear Gram matrices; 0 for unrelated features"],
    mutual_knn: [
      "mutual k-NN",
      "mean share of the k nearest neighbors in common; k / (n − 1) for unrelated features",
    ],
    procrustes: [
      "Procrustes similarity",
      "nuclear norm of the cross-product of centered features of norm 1; biased upwards for wide layers",
    ],
  };

  const text = (term) => TERMS[term] || "";
  const measure = (name) => (MEASURES[name] || [name])[0];
  const about = (name) => (MEASURES[name] || ["", ""])[1];

  function list() {
    const entries = [
      ...Object.entries(TERMS),
      ...Object.values(MEASURES).map(([name, meaning]) => [name, meaning]),
    ];
    return el(
      "dl",
      { class: "glossary" },
      entries.map(([term, meaning]) =>
        el("div", {}, el("dt", { text: term }), el("dd", { text: meaning })),
      ),
    );
  }

  return { text, measure, about, list };
})();
