/* The first page: what was looked at, how good the SAEs are, the strongest alignments, and the caveats. */
"use strict";

INTERP.overview = (function () {
  const { el, number, percent, fixed, pValue } = INTERP;
  const { table } = INTERP.controls;

  const warn = () =>
    el("span", {
      class: "badge warn",
      text: "UNDERTRAINED",
      title: "the model's own card says that its samples are not good enough",
    });

  function notes(meta) {
    return el(
      "div",
      { class: "notes" },
      meta.notes.map((note) => el("p", { text: note })),
    );
  }

  /* Damage with its interval, where it has one. */
  function damageText(substitution) {
    const { damage, low, high } = substitution;
    const known = low !== null && low !== undefined;
    return fixed(damage) + (known ? " [" + fixed(low, 2) + ", " + fixed(high, 2) + "]" : "");
  }

  function saeRow(sae) {
    const evaluation = sae.evaluation || {};
    const num = (text) => el("td", { class: "num", text });
    return el(
      "tr",
      {},
      el(
        "td",
        {},
        el("a", {
          href: INTERP.state.link({ view: "browse", sae: sae.index }),
          class: "strong",
          text: sae.point.name,
        }),
        " ",
        sae.undertrained ? warn() : null,
      ),
      el("td", { text: sae.model }),
      num(number(sae.n_latents)),
      num(fixed(evaluation.fvu)),
      num(number(evaluation.l0)),
      num(percent(sae.n_dead / sae.n_latents)),
      num(sae.substitution ? damageText(sae.substitution) : "–"),
      num(number(sae.n_rows)),
    );
  }

  function highlight(sae, latent) {
    const about = latent.category
      ? latent.category + " " + Math.round(100 * latent.share) + " %"
      : "density " + percent(latent.density);
    return el(
      "a",
      {
        class: "highlight",
        href: INTERP.state.link({ view: "feature", sae: sae.index, feature: latent.id }),
      },
      el(
        "span",
        { class: "four" },
        latent.generations.map((g) =>
          el("img", {
            src: INTERP.imageUrl(sae.store.key, g),
            alt: "top image of latent " + latent.id,
            class: "pixelated",
          }),
        ),
      ),
      el(
        "span",
        { class: "about" },
        el("b", { text: String(latent.id) }),
        el("span", { class: "name", text: about }),
      ),
    );
  }

  function gallery(meta) {
    const shown = meta.saes.filter((sae) => sae.highlights.length);
    if (!shown.length) return null;
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: "Some latents" }),
        el("p", {
          class: "note",
          text: "By rule, not by hand: among latents at or above median density the lowest category entropy, one per category; without categories, the largest activation.",
        }),
      ),
      shown.map((sae) =>
        el(
          "div",
          { class: "highlight-row" },
          el(
            "a",
            { class: "where", href: INTERP.state.link({ view: "browse", sae: sae.index }) },
            el("b", { text: sae.point.name }),
            el("small", { text: sae.model }),
          ),
          el(
            "div",
            { class: "highlights" },
            sae.highlights.map((latent) => highlight(sae, latent)),
          ),
        ),
      ),
    );
  }

  function saes(meta) {
    if (!meta.saes.length) return null;
    const headings = [
      ["Point"],
      ["Model"],
      ["Latents", "", true],
      ["FVU", "fraction of variance unexplained, on held-out rows", true],
      ["L0", "active latents per row", true],
      ["Dead", "share of latents that never fired", true],
      [
        "Damage",
        "image damage with the reconstruction in place: 0 is no edit, 1 is mean ablation",
        true,
      ],
      ["Rows", "rows described", true],
    ];
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: "Sparse autoencoders" }),
        el("p", {
          class: "note",
          text: "FVU: unexplained variance on held-out rows. Damage: 0 is no edit, 1 is mean ablation.",
        }),
      ),
      table(headings, meta.saes.map(saeRow), "Sparse autoencoders"),
    );
  }

  function layerName(layer) {
    const level =
      layer.log_snr === null || layer.log_snr === undefined
        ? ""
        : " @ log-SNR " + fixed(layer.log_snr, 1);
    return layer.model + " · " + layer.point + level;
  }

  function cellText(cell) {
    const twin =
      cell.difference === null || cell.difference === undefined
        ? "–"
        : signed(cell.difference) +
          (cell.difference_low === null || cell.difference_low === undefined
            ? ""
            : " [" + fixed(cell.difference_low, 2) + ", " + fixed(cell.difference_high, 2) + "]");
    return {
      value: fixed(cell.value),
      interval:
        cell.low === null || cell.low === undefined || Number.isNaN(cell.low)
          ? "–"
          : "[" + fixed(cell.low, 2) + ", " + fixed(cell.high, 2) + "]",
      null: fixed(cell.null_mean) + " ± " + fixed(cell.null_sd),
      p: pValue(cell.p),
      twin,
    };
  }

  const signed = (value) => (value >= 0 ? "+" : "") + fixed(value);

  function strongestRow(cell, alignment) {
    const text = cellText(cell);
    const num = (value) => el("td", { class: "num", text: value });
    const href = INTERP.state.format({
      view: "compare",
      alignment,
      params: { measure: cell.measure, cell: cell.i + "," + cell.j },
    });
    return el(
      "tr",
      {},
      el(
        "td",
        {},
        el(
          "a",
          { href, class: "strong" },
          layerName(cell.layers[0]),
          el("br"),
          layerName(cell.layers[1]),
        ),
      ),
      el("td", { text: cell.measure }),
      num(text.value),
      num(text.interval),
      num(text.null),
      num(text.p),
      num(text.twin),
      num(number(cell.n)),
      num(number(cell.n_cells)),
    );
  }

  const ALIGNMENT_HEADINGS = [
    ["Layers"],
    ["Measure"],
    ["Value", "", true],
    ["95 % interval", "jackknife over clusters", true],
    ["Null", "mean ± sd under permutation", true],
    ["p", "adjusted for the maximum over its family", true],
    ["Minus twin", "difference to the untrained twins, with interval", true],
    ["n", "paired images", true],
    ["Best of", "cells this one was chosen from", true],
  ];

  function alignments(meta) {
    return meta.alignments.map((alignment, index) =>
      el(
        "section",
        { class: "panel" },
        el(
          "div",
          { class: "panel-head" },
          el(
            "h2",
            {},
            "Strongest alignments ",
            el("small", { text: "on " + alignment.sample_set }),
          ),
          el(
            "a",
            {
              class: "button",
              href: INTERP.state.format({ view: "compare", alignment: index, params: {} }),
            },
            "Open comparison",
          ),
        ),
        table(
          ALIGNMENT_HEADINGS,
          alignment.strongest.map((cell) => strongestRow(cell, index)),
          "Strongest alignments",
        ),
        el("p", {
          class: "note",
          text: "The best cell of each pair of models and measure. Chosen after looking, so its value is optimistic: read it beside its null, its p and the untrained twins.",
        }),
      ),
    );
  }

  function card(record) {
    const hidden = new Set([
      "name",
      "undertrained",
      "samples",
      "verdict",
      "summary",
      "description",
    ]);
    const facts = Object.entries(record)
      .filter(([name, value]) => !hidden.has(name) && value !== null)
      .flatMap(([name, value]) =>
        typeof value === "object" && !Array.isArray(value)
          ? Object.entries(value).map(([key, inner]) => [name + " · " + key, inner])
          : [[name, value]],
      );
    const show = facts.map(([name, value]) => [
      name.replace(/_/g, " "),
      typeof value === "number" ? number(value, 4) : value,
    ]);
    return el(
      "article",
      { class: "panel model-card" },
      record.samples
        ? el("img", {
            class: "samples",
            src: "bundle/" + record.samples,
            alt: "Samples of " + record.name,
          })
        : null,
      el("h3", {}, record.name, " ", record.undertrained ? warn() : null),
      record.summary || record.description
        ? el("p", { text: record.summary || record.description })
        : null,
      ((record.verdict || {}).reasons || []).map((reason) =>
        el("p", { class: "note", text: reason }),
      ),
      show.length
        ? el("details", {}, el("summary", { text: "Card" }), INTERP.controls.facts(show))
        : null,
    );
  }

  function render(main, meta) {
    const facts = Object.entries(meta.provenance);
    main.replaceChildren(
      el(
        "section",
        { class: "overview" },
        el("div", { class: "hero" }, el("h1", { text: meta.title }), notes(meta)),
        saes(meta),
        gallery(meta),
        alignments(meta),
        meta.cards.length
          ? el(
              "section",
              {},
              el("h2", { class: "section", text: "Models" }),
              el("div", { class: "cards" }, meta.cards.map(card)),
            )
          : null,
        facts.length
          ? el(
              "details",
              { class: "panel provenance" },
              el("summary", { text: "Provenance" }),
              INTERP.controls.facts(facts),
            )
          : null,
      ),
    );
  }

  return { render, damageText, cellText, layerName, strongestRow, signed, ALIGNMENT_HEADINGS };
})();
