/* The first page: what was looked at, how good the SAEs are, the strongest alignments, and the caveats. */
"use strict";

INTERP.overview = (function () {
  const { el, number, percent, fixed, pValue } = INTERP;
  const { table } = INTERP.controls;
  const { text: word, measure: measureName, about: measureAbout } = INTERP.glossary;

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
    const num = (text, minor) => el("td", { class: "num" + (minor ? " minor" : ""), text });
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
      el("td", { class: "minor", text: sae.model }),
      num(number(sae.n_latents), true),
      num(fixed(evaluation.fvu)),
      el(
        "td",
        { class: "nowrap", title: INTERP.quality.besideTitle(evaluation) },
        INTERP.quality.besideText(evaluation),
        " ",
        INTERP.quality.beatenBadge(evaluation),
      ),
      num(number(evaluation.l0)),
      num(percent(sae.n_dead / sae.n_latents), true),
      num(sae.substitution ? damageText(sae.substitution) : "–"),
      num(number(sae.n_rows), true),
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
      ["Point", "where in the model the activations were read"],
      ["Model", "", false, true],
      ["Latents", word("latent"), true, true],
      ["FVU", word("FVU"), true],
      ["Best baseline", "FVU of the best other code. " + word("baseline")],
      ["L0", word("L0"), true],
      ["Dead", "share of latents that never fired", true, true],
      ["Damage", word("damage"), true],
      ["Rows", word("row"), true, true],
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
          text: "FVU: unexplained variance on all held-out rows; baselines on a sample of them, with as many coefficients per row. Damage: 0 is no edit, 1 is mean ablation.",
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

  const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
  const between = (low, high) =>
    known(low) ? "[" + fixed(low, 2) + ", " + fixed(high, 2) + "]" : "";

  function cellText(cell) {
    const difference = known(cell.difference)
      ? signed(cell.difference) + " " + between(cell.difference_low, cell.difference_high)
      : "–";
    return {
      value: fixed(cell.value),
      interval: between(cell.low, cell.high) || "–",
      null: known(cell.null_mean) ? fixed(cell.null_mean) + " ± " + fixed(cell.null_sd) : "–",
      p: pValue(cell.p),
      twin: fixed(cell.twin_value),
      difference: difference.trim(),
    };
  }

  const signed = (value) => (value >= 0 ? "+" : "") + fixed(value);

  /* Whether the difference to the untrained twins is known and its interval reaches 0 or below. */
  function notAbove(cell) {
    if (!known(cell.difference)) return false;
    return (known(cell.difference_low) ? cell.difference_low : cell.difference) <= 0;
  }

  /* The smallest p that so many permutations can give, before and after Holm. */
  function floorText(permutations, families) {
    if (!permutations) return "";
    const least = 1 / (1 + permutations);
    return (
      " With K = " +
      number(permutations) +
      " permutations no p lies below 1/(1+K) = " +
      fixed(least) +
      (families > 1
        ? "; Holm over " +
          families +
          " pairs of models and measures lifts that floor to " +
          fixed(Math.min(1, families * least)) +
          "."
        : ".")
    );
  }

  function strongestRow(cell, alignment) {
    const text = cellText(cell);
    const num = (value) => el("td", { class: "num", text: value });
    const low = notAbove(cell);
    const href = INTERP.state.format({
      view: "compare",
      alignment,
      params: { measure: cell.measure, cell: cell.i + "," + cell.j },
    });
    return el(
      "tr",
      { class: low ? "dim" : "" },
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
        " ",
        low ? el("span", { class: "badge warn", text: "not above untrained twins" }) : null,
      ),
      el("td", { text: measureName(cell.measure), title: measureAbout(cell.measure) }),
      num(text.value + (text.interval === "–" ? "" : " " + text.interval)),
      num(text.twin),
      el("td", { class: "num strong", text: text.difference }),
      num(text.null),
      num(fixed(cell.z, 1)),
      num(fixed(cell.p_holm)),
      num(number(cell.n_cells)),
    );
  }

  const ALIGNMENT_HEADINGS = [
    ["Layers"],
    ["Measure"],
    ["Value", "with its 95 % interval: " + word("95 % interval"), true],
    ["Twins", "value of the untrained twins. Twin: " + word("twin"), true],
    ["Value − twins", word("difference"), true],
    ["Null", word("null"), true],
    ["z", word("z"), true],
    ["p (max-T, Holm)", word("p (max-T, Holm)"), true],
    ["Best of", word("best of"), true],
  ];

  /* How to read a table of cells that were chosen for their z. */
  function caveat(alignment) {
    return el("p", {
      class: "note",
      text:
        "For each pair of models and measure, the cell with the largest z: chosen after looking at all of them (last column), so its value is optimistic and its interval does not know of the choice. The largest z need not be the largest value. Read the difference to the untrained twins first; rows whose interval of it reaches 0 are dimmed. p asks only whether any pairing of the layers exists." +
        floorText(alignment.n_permutations, alignment.n_families),
    });
  }

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
            "Largest z over the null, per pair of models ",
            el("small", {
              text: "on " + alignment.sample_set + ", n = " + number(alignment.n) + " images",
            }),
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
          "Largest z over the null, per pair of models",
        ),
        caveat(alignment),
      ),
    );
  }

  function card(record) {
    const hidden = new Set([
      "name",
      "undertrained",
      "samples",
      "samples_note",
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
      el("h3", {}, record.name, " ", record.undertrained ? warn() : null),
      record.samples
        ? el("img", {
            class: "samples",
            src: "bundle/" + record.samples,
            alt: "Samples of " + record.name,
          })
        : null,
      record.samples_note ? el("p", { class: "note", text: record.samples_note }) : null,
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

  return {
    render,
    damageText,
    cellText,
    layerName,
    strongestRow,
    caveat,
    floorText,
    ALIGNMENT_HEADINGS,
  };
})();
