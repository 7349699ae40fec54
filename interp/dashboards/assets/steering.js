/* What steering a latent did: pictures over strength, response beside random directions, distance
   from clean rows. */
"use strict";

INTERP.steering = (function () {
  const { el, fixed } = INTERP;
  const { facts } = INTERP.controls;
  const HUES = ["#009e73", "#d55e00", "#0072b2"];
  // Random directions: kind, words, color of the edge and of the band.
  const BANDS = [
    ["isotropic", "random, any direction", "#e69f00", "rgba(230,159,0,.2)"],
    ["matched", "random, covariance of clean rows", "#cc79a7", "rgba(204,121,167,.2)"],
  ];

  const short = (s) => String(Number(s.toPrecision(3))).replace("-", "−");

  const entries = (sae, id) =>
    (INTERP.meta().steering || []).filter((one) => one.sae === sae.index && one.latent === id);

  /* One panel per record of this latent; their data arrive after the page stands. */
  function panels(context) {
    const found = entries(context.sae, context.latent.id);
    if (!found.length) return null;
    return el(
      "div",
      { class: "steering-panels" },
      found.map((entry) => {
        const panel = el("section", { class: "panel steering", "aria-label": "Steering" });
        panel.append(el("p", { class: "note", text: "Reading what steering did …" }));
        INTERP.load("steering" + entry.index).then(
          (dose) => fill(panel, dose, entry),
          (error) => panel.replaceChildren(el("p", { class: "caution", text: error.message })),
        );
        return panel;
      }),
    );
  }

  function fill(panel, dose, entry) {
    const charts = dose.attributes.map((name) =>
      place(entry, name, "Change of " + name + " by strength", (node) =>
        response(node, dose, name),
      ),
    );
    if (Object.keys(dose.off_distribution).length)
      charts.push(
        place(entry, "off distribution", "Distance from clean rows by strength", (node) =>
          distance(node, dose),
        ),
      );
    const parts = [
      el(
        "div",
        { class: "panel-head" },
        el("h2", {}, "Steering", el("small", { text: dose.mode + ", " + dose.label })),
        el("p", { class: "note", text: "Strength: " + dose.unit_words + "." }),
      ),
      caution(dose),
      strip(dose, entry),
      el("div", { class: "dose-charts" }, charts),
      legend(dose),
      dose.n_random ? el("p", { class: "note", text: "Size: " + dose.conclusion + "." }) : null,
      el(
        "details",
        {},
        el("summary", { text: "Numbers" }),
        numbers(dose),
        facts([
          ["seeds", dose.n_seeds],
          ["random directions of each kind", dose.n_random],
          ["scanned", dose.n_scanned],
          ["target", dose.target + (dose.target_given ? "" : " (moved most on half of the seeds)")],
          ["direction", dose.direction],
          ["settings", dose.settings],
        ]),
      ),
    ];
    panel.replaceChildren(...parts.filter(Boolean));
  }

  function caution(dose) {
    const said = !dose.n_random
      ? "No random directions were drawn: nothing says how much a push does by itself."
      : dose.random_suffices
        ? null
        : "Only " +
          dose.n_random +
          " random directions of each kind for " +
          dose.n_scanned +
          " scanned features: the bands are too low.";
    return said ? el("p", { class: "caution", text: said }) : null;
  }

  /* Pictures: a row per seed, a column per strength, the unedited ones first. */
  function strip(dose, entry) {
    const { rows, columns, height, width } = dose.sheet;
    const url = "bundle/steering/" + entry.index + ".webp";
    const part = (i, n) => (n > 1 ? (100 * i) / (n - 1) + "%" : "0");
    const picture = (row, column, words) =>
      el("span", {
        class: "frame" + (Math.max(height, width) <= 64 ? " pixelated" : ""),
        role: "img",
        "aria-label": words,
        title: words,
        style: {
          backgroundImage: 'url("' + url + '")',
          backgroundSize: 100 * columns + "% " + 100 * rows + "%",
          backgroundPosition: part(column, columns) + " " + part(row, rows),
          aspectRatio: width + " / " + height,
        },
      });
    const label = (s) => (s === dose.neutral ? short(s) + " (no edit)" : short(s));
    const heads = ["unedited", ...dose.strengths.map(label)];
    const line = (seed, column) =>
      el(
        "tr",
        {},
        el("th", { scope: "row", text: "seed " + seed }),
        heads.map((head, row) =>
          el("td", {}, picture(row, column, "seed " + seed + ", strength " + head)),
        ),
      );
    return el(
      "div",
      { class: "strip-scroll", tabindex: "0", role: "region", "aria-label": "Pictures by strength" },
      el(
        "table",
        { class: "dose-strip" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            el("th", { scope: "col", text: "strength" }),
            heads.map((text) => el("th", { scope: "col", text })),
          ),
        ),
        el("tbody", {}, dose.shown_seeds.map(line)),
      ),
    );
  }

  function place(entry, name, label, draw) {
    const chart = INTERP.charts.place("steering " + entry.index + " " + name, label);
    INTERP.charts.later(chart, () => draw(chart));
    return el("figure", {}, el("h3", { text: name }), chart);
  }

  function band(dose, kind, name, edge, color) {
    const rows = dose[kind][name];
    if (!rows) return [];
    const look = { x: dose.strengths, mode: "lines", line: { color: edge, width: 1 } };
    const y = rows.map((row) => row.along);
    return [
      { ...look, y: y.map((v) => -v), hoverinfo: "skip" },
      { ...look, y, fill: "tonexty", fillcolor: color, hoverinfo: "skip" },
    ];
  }

  function response(node, dose, name) {
    const rows = dose.responses[name];
    const accent = INTERP.colors.token("accent");
    const level = (row, i) =>
      BANDS.filter(([kind]) => dose[kind][name])
        .map(([kind, words]) => "<br>" + words + " ≤ " + fixed(dose[kind][name][i].along))
        .join("");
    return INTERP.charts.draw(
      node,
      [
        ...BANDS.flatMap(([kind, , edge, color]) => band(dose, kind, name, edge, color)),
        {
          x: dose.strengths,
          y: rows.map((row) => row.size),
          mode: "lines",
          line: { color: accent, width: 1.5, dash: "dot" },
          hovertemplate: "in any direction %{y:.3f}<extra></extra>",
        },
        {
          x: dose.strengths,
          y: rows.map((row) => row.along),
          error_y: {
            type: "data",
            symmetric: false,
            array: rows.map((row) => row.along_high - row.along),
            arrayminus: rows.map((row) => row.along - row.along_low),
            thickness: 1.5,
            width: 3,
          },
          text: rows.map(level),
          mode: "lines+markers",
          line: { color: accent, width: 2 },
          hovertemplate: "strength %{x:.3g}: %{y:.3f}%{text}<extra></extra>",
        },
      ],
      {
        height: 230,
        xaxis: INTERP.charts.axis("strength (" + dose.mode + ")"),
        yaxis: INTERP.charts.axis("change (seed distances)", { zeroline: true }),
      },
    );
  }

  const ratio = (value, level) => (value === null || !(level > 0) ? null : value / level);

  function distance(node, dose) {
    const traces = Object.entries(dose.off_distribution).flatMap(([point, rows], i) =>
      [
        ["mahalanobis", "solid", "outside"],
        ["neighbor", "dash", "neighbor_outside"],
      ].map(([name, dash, outside]) => ({
        x: dose.strengths,
        y: rows.map((row) => ratio(row[name], row[name + "_clean"])),
        text: rows.map((row) => INTERP.percent(row[outside])),
        mode: "lines+markers",
        line: { color: HUES[i % HUES.length], width: 2, dash },
        hovertemplate:
          name + " at " + INTERP.charts.short(point, 40) + ": %{y:.2f} × clean<br>%{text} of rows beyond 95 % of clean ones<extra></extra>",
      })),
    );
    const line = { color: INTERP.colors.token("ink-3"), width: 1, dash: "dot" };
    return INTERP.charts.draw(node, traces, {
      height: 230,
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line }],
      xaxis: INTERP.charts.axis("strength (" + dose.mode + ")"),
      yaxis: INTERP.charts.axis("distance (× clean rows)", { rangemode: "tozero" }),
    });
  }

  function legend(dose) {
    const key = (color, text, kind) =>
      el("span", {}, el("i", { class: kind, style: { background: color, color } }), text);
    const points = Object.keys(dose.off_distribution);
    const drawn = dose.n_random + " drawn)";
    const most =
      dose.n_scanned > 1
        ? " (largest of " + Math.min(dose.n_scanned, dose.n_random) + ", " + drawn
        : " (mean of " + drawn;
    return el(
      "div",
      { class: "dose-key" },
      key("var(--accent)", "along the attribute's axis, 95 % jackknife over seeds", "line"),
      key("none", "in any direction", "dots"),
      BANDS.filter(([kind]) => Object.keys(dose[kind]).length).map(([, words, , color]) =>
        key(color, words + most, "band"),
      ),
      points.map((point, i) =>
        key(HUES[i % HUES.length], "off distribution at " + point, "line"),
      ),
      points.length ? el("span", { text: "solid: Mahalanobis, dashed: nearest neighbors" }) : null,
      el("p", {
        class: "note",
        text:
          "n = " +
          dose.n_seeds +
          " seeds. Change 1: as different as the image of another seed. Bands: random directions " +
          "that move every row as far; a latent does something of its own where it leaves them.",
      }),
    );
  }

  function numbers(dose) {
    const heads = [["strength"], ["rows moved by"]];
    for (const name of dose.attributes) {
      heads.push([name, "change along the attribute's axis", true]);
      heads.push(["any direction", "root mean squared change", true, true]);
      heads.push(["random", (dose.n_scanned > 1 ? "largest" : "mean") + " of the random directions, along", true]);
    }
    heads.push(["off target", "share of the change that is not of the target", true]);
    const points = Object.entries(dose.off_distribution);
    for (const [point] of points)
      heads.push(["rows outside", "share of rows beyond 95 % of clean ones at " + point, true]);
    const levels = (name, i) =>
      BANDS.filter(([kind]) => dose[kind][name]).map(([kind]) => dose[kind][name][i].along);
    const rows = dose.strengths.map((s, i) => {
      const cells = [short(s), fixed(dose.shifts[i], 2)];
      for (const name of dose.attributes) {
        const one = dose.responses[name][i];
        const reach = " [" + fixed(one.along_low, 2) + ", " + fixed(one.along_high, 2) + "]";
        const most = Math.max(...levels(name, i));
        cells.push(fixed(one.along, 2) + reach, fixed(one.size, 2));
        cells.push(Number.isFinite(most) ? fixed(most, 2) : "not drawn");
      }
      cells.push(fixed(dose.off_target[i].value, 2));
      for (const [, rows] of points) cells.push(INTERP.percent(rows[i].outside));
      return el(
        "tr",
        {},
        cells.map((text, k) => el("td", { text, class: (heads[k][2] ? "num" : "") + (heads[k][3] ? " minor" : "") })),
      );
    });
    return INTERP.controls.table(heads, rows, "Steering in numbers");
  }

  return { panels };
})();
