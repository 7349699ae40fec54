/* One pair of layers: its numbers, its strip beside null and twins, and its place in the layer profile. */
"use strict";

INTERP.pair = (function () {
  const { el, number, fixed, pValue } = INTERP;
  const { measure: measureName, about: measureAbout } = INTERP.glossary;

  /* Cells by (i, j) for one measure, in either order. */
  function index(data, measure) {
    const at = new Map();
    const m = data.measures.indexOf(measure);
    for (let c = 0; c < data.cells.i.length; c++) {
      if (data.cells.measure[c] === m) at.set(data.cells.i[c] + "," + data.cells.j[c], c);
    }
    const read = (c) => {
      const cell = {};
      for (const [name, values] of Object.entries(data.cells))
        cell[name] = Number.isNaN(values[c]) ? null : values[c];
      return cell;
    };
    return (i, j) => {
      const c = at.get(i + "," + j) ?? at.get(j + "," + i);
      return c === undefined ? null : read(c);
    };
  }

  function numbers(cell) {
    const text = INTERP.overview.cellText(cell);
    return [
      ["95 % interval", text.interval],
      ["null mean ± sd", text.null],
      ["z", cell.z === null ? null : fixed(cell.z, 1)],
      ["p of this cell (max-T)", cell.p === null ? null : text.p],
      ["untrained twins", cell.twin_value === null ? null : text.twin],
      ["value − twins", cell.difference === null ? null : text.difference],
    ];
  }

  function tooltip(data) {
    return (i, j, cell) => [
      el("b", { text: fixed(cell.value) }),
      el("p", { text: INTERP.overview.layerName(data.layers[i]) }),
      el("p", { text: INTERP.overview.layerName(data.layers[j]) }),
      INTERP.controls.facts(numbers(cell)),
    ];
  }

  /* The test of the pair of models a cell belongs to: max-T over its cells, Holm over the pairs. */
  function family(data, pair, measure) {
    const models = pair.map((i) => data.layers[i].model);
    return (data.families || []).find(
      (one) =>
        one.measure === measure && models.includes(one.model_a) && models.includes(one.model_b),
    );
  }

  function familyFacts(data, pair, measure) {
    if (data.layers[pair[0]].model === data.layers[pair[1]].model) return null;
    const one = family(data, pair, measure);
    if (!one) return null;
    return INTERP.controls.facts([
      ["models", one.model_a + ", " + one.model_b],
      ["p (max-T, Holm)", fixed(one.p_holm)],
    ]);
  }

  function layersOf(data, model) {
    return data.layers.map((_, i) => i).filter((i) => !model || data.layers[i].model === model);
  }

  function svg(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  /* One line on a common scale: null band (2 sd), untrained twins, interval, value. */
  function strip(cell) {
    const known = [
      0,
      cell.value,
      cell.low,
      cell.high,
      cell.twin_value,
      cell.null_mean + 2 * (cell.null_sd || 0),
      1,
    ].filter((v) => v !== null && !Number.isNaN(v));
    const low = Math.min(...known);
    const high = Math.max(...known);
    const x = (value) => 4 + (292 * (value - low)) / (high - low || 1);
    const root = svg("svg", {
      viewBox: "0 0 300 34",
      class: "strip",
      role: "img",
      "aria-label":
        "value " +
        fixed(cell.value) +
        " on a scale from " +
        fixed(low, 2) +
        " to " +
        fixed(high, 2),
    });
    root.append(svg("line", { x1: 4, x2: 296, y1: 17, y2: 17, class: "axis" }));
    if (cell.null_mean !== null && cell.null_sd !== null) {
      const from = x(Math.max(low, cell.null_mean - 2 * cell.null_sd));
      root.append(
        svg("rect", {
          x: from,
          width: Math.max(2, x(cell.null_mean + 2 * cell.null_sd) - from),
          y: 9,
          height: 16,
          class: "null",
        }),
      );
    }
    if (cell.low !== null)
      root.append(
        svg("line", { x1: x(cell.low), x2: x(cell.high), y1: 17, y2: 17, class: "interval" }),
      );
    if (cell.twin_value !== null)
      root.append(
        svg("path", { d: "M" + x(cell.twin_value) + " 8 l5 9 -5 9 -5 -9z", class: "twin" }),
      );
    root.append(svg("circle", { cx: x(cell.value), cy: 17, r: 5.5, class: "value" }));
    return root;
  }

  function layerFacts(layer) {
    const snr =
      layer.log_snr === null || layer.log_snr === undefined ? null : fixed(layer.log_snr, 1);
    return [
      ["model", layer.model],
      ["point", layer.point],
      ["width", layer.width],
      ["depth", layer.depth === null ? null : fixed(layer.depth, 2)],
      ["call", layer.call],
      ["log-SNR", snr],
    ];
  }

  function saeLinks(layer) {
    return INTERP.meta()
      .saes.filter(
        (sae) =>
          (sae.model === layer.model || sae.model.endsWith(":" + layer.model)) &&
          sae.point.name === layer.point,
      )
      .map((sae) =>
        el("a", { class: "button", href: "#/sae/" + sae.index }, "Features of " + sae.point.name),
      );
  }

  function detail(data, pair, measure) {
    const root = el("aside", { class: "panel detail", id: "detail", "aria-label": "Chosen pair" });
    const cell = pair && index(data, measure)(...pair);
    if (!cell) {
      root.append(
        el("p", {
          class: "empty",
          text: "Choose a cell: its value appears here beside its null, its interval and the untrained twins.",
        }),
      );
      return root;
    }
    const layers = pair.map((i) => data.layers[i]);
    root.append(
      el(
        "div",
        { class: "panel-head" },
        el(
          "h2",
          {},
          INTERP.overview.layerName(layers[0]),
          el("br"),
          INTERP.overview.layerName(layers[1]),
        ),
      ),
      el(
        "p",
        { class: "big" },
        fixed(cell.value),
        el("small", {
          title: measureAbout(measure),
          text:
            measureName(measure) +
            ", n = " +
            number(cell.n) +
            (cell.k ? ", " + number(cell.k) + " neighbors" : ""),
        }),
      ),
      strip(cell),
      el(
        "p",
        { class: "key" },
        [
          ["k-value", "value, 95 % interval"],
          ["k-null", "null ± 2 sd"],
          ["k-twin", "twins"],
        ].map(([name, text]) => el("span", {}, el("i", { class: name }), text)),
      ),
      INTERP.controls.facts(numbers(cell)),
      familyFacts(data, pair, measure) || "",
    );
    for (const other of data.measures.filter((name) => name !== measure)) {
      const same = index(data, other)(...pair);
      if (same)
        root.append(
          el(
            "div",
            { class: "other" },
            el("h3", {}, measureName(other), el("small", { text: fixed(same.value) + ", p " + pValue(same.p) })),
            strip(same),
          ),
        );
    }
    root.append(
      el(
        "div",
        { class: "pair" },
        layers.map((layer) =>
          el("div", {}, INTERP.controls.facts(layerFacts(layer)), saeLinks(layer)),
        ),
      ),
      el("p", {
        class: "note",
        text:
          number(cell.n_permutations) +
          " permutations, seed " +
          cell.seed +
          "." +
          INTERP.overview.floorText(cell.n_permutations, data.families.length) +
          " " +
          (data.preprocessing || ""),
      }),
    );
    return root;
  }

  /* value against depth for the layers of one model, at a fixed layer of another. */
  function profile(chart, data, measure, model, fixedLayer) {
    const lookup = index(data, measure);
    const points = layersOf(data, model)
      .filter((i) => i !== fixedLayer)
      .map((i) => ({ layer: data.layers[i], cell: lookup(i, fixedLayer) }))
      .filter((entry) => entry.cell && entry.layer.depth !== null);
    const levels = [...new Set(points.map((entry) => entry.layer.log_snr ?? entry.layer.call))];
    const traces = levels.flatMap((level, k) =>
      profileTraces(
        points.filter((entry) => (entry.layer.log_snr ?? entry.layer.call) === level),
        level,
        k,
        levels.length,
      ),
    );
    return INTERP.charts.draw(chart, traces, {
      height: 340,
      showlegend: true,
      legend: { orientation: "h", traceorder: "normal", y: 1.12, x: 0, font: { size: 11.5 } },
      margin: { l: 52, r: 12, t: 34, b: 44 },
      xaxis: INTERP.charts.axis(
        "depth in " + INTERP.charts.escape(model) + " (0 first block, 1 last)",
        { range: [-0.03, 1.03] },
      ),
      yaxis: INTERP.charts.axis(
        INTERP.charts.escape(measureName(measure)) +
          " with " +
          INTERP.charts.short(INTERP.overview.layerName(data.layers[fixedLayer]), 44),
      ),
    });
  }

  function profileTraces(points, level, k, count) {
    points.sort((a, b) => a.layer.depth - b.layer.depth);
    const color = INTERP.colors.CATEGORICAL[[0, 5, 2, 3, 4, 1][k % 6]];
    const name = count > 1 ? "log-SNR " + fixed(level, 1) : "trained";
    const x = points.map((entry) => entry.layer.depth);
    const column = (key) => points.map((entry) => entry.cell[key]);
    const value = column("value");
    const out = [
      {
        x,
        y: value,
        name,
        mode: "lines+markers",
        line: { color, width: 2 },
        marker: { size: 6 },
        customdata: points.map((entry) => INTERP.charts.escape(entry.layer.point)),
        error_y: {
          type: "data",
          symmetric: false,
          array: column("high").map((v, i) => (v === null ? 0 : v - value[i])),
          arrayminus: column("low").map((v, i) => (v === null ? 0 : value[i] - v)),
          color,
          thickness: 1,
          width: 2,
        },
        hovertemplate: "%{customdata}<br>%{y:.3f}<extra>" + name + "</extra>",
      },
    ];
    if (column("twin_value").some((v) => v !== null))
      out.push({
        x,
        y: column("twin_value"),
        name: "untrained twins" + (count > 1 ? ", " + name : ""),
        mode: "lines",
        line: { color, width: 1.5, dash: "dot" },
        hoverinfo: "y+name",
      });
    if (k === 0 && column("null_mean").some((v) => v !== null)) {
      const band = (sign) =>
        points.map((entry) =>
          entry.cell.null_mean === null
            ? null
            : entry.cell.null_mean + sign * 2 * entry.cell.null_sd,
        );
      out.push(
        { x, y: band(-1), mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
        {
          x,
          y: band(1),
          mode: "lines",
          line: { width: 0 },
          fill: "tonexty",
          fillcolor: "rgba(128,128,128,0.25)",
          name: "null ± 2 sd",
          hoverinfo: "skip",
        },
      );
    }
    return out;
  }

  /* The two ends of the profile: the model that is walked through, and the layer it is held against. */
  function profileEnds(data, pair, rows) {
    if (pair && data.layers[pair[0]].model !== data.layers[pair[1]].model) {
      const count = (i) => layersOf(data, data.layers[i].model).length;
      return count(pair[0]) >= count(pair[1])
        ? [data.layers[pair[0]].model, pair[1]]
        : [data.layers[pair[1]].model, pair[0]];
    }
    return pair
      ? [data.layers[pair[0]].model, pair[1]]
      : [data.layers[rows[0]].model, data.layers.length - 1];
  }

  return { index, tooltip, layersOf, detail, profile, profileEnds };
})();
