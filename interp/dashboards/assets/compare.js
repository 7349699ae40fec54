/* The comparison page: matrix, the chosen pair with its matched features, layer profiles, the best layers. */
"use strict";

INTERP.compare = (function () {
  const { el, number, fixed } = INTERP;
  const { index, layersOf, tooltip, detail, profile, profileEnds } = INTERP.pair;
  const BY = [
    ["value", "value"],
    ["z", "z under the null"],
    ["difference", "minus untrained twin"],
  ];

  /* The scale ends at the largest value between different models; within one, values may lie
     beyond it. low and high say whether any shown cell does. */
  function range(data, lookup, rows, columns, by) {
    const out = { most: 0, low: false, high: false };
    const all = [];
    for (const i of rows)
      for (const j of columns) {
        const cell = lookup(i, j);
        if (!cell || cell[by] === null) continue;
        all.push(cell[by]);
        if (data.layers[i].model !== data.layers[j].model)
          out.most = Math.max(out.most, Math.abs(cell[by]));
      }
    out.most = out.most || 1;
    const bottom = by === "difference" ? -out.most : 0;
    out.low = all.some((value) => value < bottom - 5e-3);
    out.high = all.some((value) => value > out.most + 5e-3);
    return out;
  }

  function painter(data, lookup, rows, columns, by) {
    const limits = range(data, lookup, rows, columns, by);
    const { most } = limits;
    const empty = INTERP.colors.token("empty");
    const unit = (value) => (by === "difference" ? 0.5 + value / (2 * most) : value / most);
    const color = (cell) =>
      cell[by] === null
        ? empty
        : INTERP.colors.css(by === "difference" ? "diverging" : "viridis", unit(cell[by]));
    return { color, legend: legend(by, limits) };
  }

  function legend(by, { most, low, high }) {
    const map = by === "difference" ? "diverging" : "viridis";
    const stops = Array.from({ length: 9 }, (_, i) => INTERP.colors.css(map, i / 8)).join(",");
    const bottom = by === "difference" ? fixed(-most, 2) : "0";
    const note = BY.find((entry) => entry[0] === by)[1];
    return el(
      "div",
      { class: "legend" },
      el("span", { text: (low ? "≤ " : "") + bottom }),
      el("i", {
        style: { background: "linear-gradient(to right," + stops + ")" },
        "aria-hidden": "true",
      }),
      el("span", { text: (high ? "≥ " : "") + fixed(most, by === "z" ? 0 : 2) }),
      el("small", {
        text: note + (high ? "; ends at the largest between different models" : ""),
      }),
    );
  }

  function best(meta, state, measure) {
    const rows = meta.alignments[state.alignment].strongest.filter(
      (cell) => cell.measure === measure,
    );
    if (!rows.length) return null;
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: "Largest z over the null, per pair of models" }),
      ),
      INTERP.controls.table(
        INTERP.overview.ALIGNMENT_HEADINGS,
        rows.map((cell) => INTERP.overview.strongestRow(cell, state.alignment)),
        "Largest z over the null, per pair of models",
      ),
      INTERP.overview.caveat(meta.alignments[state.alignment]),
    );
  }

  function toolbar(meta, data, state, measure) {
    const params = state.params;
    const sets = meta.alignments.map((alignment, i) => [String(i), alignment.sample_set]);
    const pick = el(
      "select",
      {
        name: "set",
        "aria-label": "Sample set",
        onchange: (event) => {
          location.hash = INTERP.state.format({
            view: "compare",
            alignment: event.target.value,
            params: { measure },
          });
        },
      },
      sets.map(([value, text]) =>
        el("option", { value, text, selected: Number(value) === state.alignment }),
      ),
    );
    const models = [["", "all models"], ...data.models.map((name) => [name, name])];
    const select = INTERP.controls.select;
    return el(
      "div",
      { class: "toolbar" },
      el("label", { class: "field" }, el("span", { text: "Samples" }), pick),
      select(
        "Measure",
        "measure",
        data.measures.map((name) => [name, INTERP.glossary.measure(name)]),
        measure,
      ),
      select("Rows", "a", models, params.a),
      select("Columns", "b", models, params.b),
      select("Color", "by", BY, params.by),
    );
  }

  async function render(main, meta, state) {
    const data = await INTERP.load("alignment" + state.alignment);
    const measure = data.measures.includes(state.params.measure)
      ? state.params.measure
      : data.measures[0];
    const rows = layersOf(data, state.params.a);
    const columns = layersOf(data, state.params.b);
    const lookup = index(data, measure);
    const pair = chosen(meta, data, state, measure);
    const look = painter(data, lookup, rows, columns, state.params.by);
    const tokens = Object.fromEntries(
      [
        ["ink", "ink"],
        ["text", "ink-2"],
        ["line", "line-strong"],
        ["empty", "empty"],
      ].map(([key, name]) => [key, INTERP.colors.token(name)]),
    );
    const matrix = INTERP.matrix.create({
      layers: data.layers,
      rows,
      columns,
      lookup,
      color: look.color,
      tokens,
      selected: ordered(pair, rows, columns),
      marked: (i, j) =>
        i !== j && INTERP.matched.find(state.alignment, [data.layers[i], data.layers[j]]) !== null,
      describe: tooltip(data),
      choose: (i, j) => INTERP.state.set({ cell: i + "," + j }, true),
    });
    const matched = await INTERP.matched.panel(data, state, pair);
    const [model, against] = profileEnds(data, pair, rows);
    const curve = INTERP.panels.panel(
      "Layer by layer",
      "The layers of " +
        model +
        " against one fixed layer. Bars: 95 % jackknife over clusters. Dotted: untrained twins.",
      "Value by depth",
      (chart) => profile(chart, data, measure, model, against),
    );
    main.replaceChildren(
      el(
        "section",
        { class: "compare" },
        el(
          "div",
          { class: "title" },
          el("p", { class: "crumbs" }, el("a", { href: "#/" }, "Overview"), " / ", "Comparison"),
          el("h1", { text: "How alike are the layers?" }),
          el("p", {
            class: "sub",
            text:
              "on " +
              data.sample_set +
              ", n = " +
              number(data.n) +
              ", permutations kept: " +
              (data.strata || "free") +
              ", seed " +
              data.seed,
          }),
        ),
        toolbar(meta, data, state, measure),
        el(
          "div",
          { class: "split" },
          el(
            "div",
            { class: "panel" },
            look.legend,
            matrix,
            levelNote(data),
            INTERP.matched.cells(data, state, rows, columns, lookup),
          ),
          withJump(detail(data, pair, measure), matched),
        ),
        matched,
        curve,
        best(meta, state, measure),
        data.note ? el("p", { class: "note wide", text: data.note }) : null,
      ),
    );
    matrix.paint();
  }

  /* The matched features stand below a matrix that may fill the window. */
  function withJump(detail, matched) {
    if (matched)
      detail.querySelector(".panel-head").after(
        el("button", {
          type: "button",
          class: "button",
          id: "to-matched",
          text: "Matched features ↓",
          onclick: () => {
            matched.scrollIntoView({ block: "start" });
            matched.focus({ preventScroll: true });
          },
        }),
      );
    return detail;
  }

  function levelNote(data) {
    if (!data.layers.some((layer) => known(layer.log_snr))) return null;
    return el("p", { class: "note", text: "@: log-SNR of the noise level, in nats; −2 is mostly noise." });
  }

  const known = (value) => value !== null && value !== undefined;

  /* The pair in the link; without one, the strongest of this measure. */
  function chosen(meta, data, state, measure) {
    const parts = state.params.cell.split(",").map(Number);
    if (state.params.cell && parts.length === 2 && parts.every((i) => data.layers[i])) return parts;
    const { a, b } = state.params;
    const fits = ([one, other]) => (!a || one.model === a) && (!b || other.model === b);
    const first = meta.alignments[state.alignment].strongest.find(
      (cell) => cell.measure === measure && (fits(cell.layers) || fits([...cell.layers].reverse())),
    );
    return first ? [first.i, first.j] : null;
  }

  function ordered(pair, rows, columns) {
    if (!pair) return null;
    return rows.includes(pair[0]) && columns.includes(pair[1]) ? pair : [pair[1], pair[0]];
  }

  return { render };
})();
