/* The map of decoder directions: one point per living latent, coloured, clickable. */
"use strict";

INTERP.map = (function () {
  const { el, percent } = INTERP;
  const { select } = INTERP.controls;
  const OTHER = "#9a9a9a";

  function method(sae) {
    const other = sae.notes.some((note) => note.includes("principal components"));
    return "Decoder directions laid out by " + (other ? "principal components" : "UMAP");
  }

  /* The map of all living latents. big: on the SAE's page, where dragging filters the table. */
  function panel(sae, table, ids, params, options) {
    const key = sae.index + (options.big ? "big" : "small");
    const chart = INTERP.charts.place(
      "map" + key,
      "Map of decoder directions; every point is a latent",
    );
    chart.classList.add("map");
    const colors = [
      ["category", "top category"],
      ["density", "density"],
      ["entropy", "entropy"],
    ].filter(([name]) => name === "density" || table[name]);
    const root = el(
      "section",
      { class: "panel map-panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: "Decoder map" }),
        select("Color", "color", colors, params.color),
      ),
      chart,
      options.big ? mapLegend(sae, table, params) : null,
      el("p", {
        class: "note",
        text:
          method(sae) +
          "; distances between clusters mean little. Dead latents are left out." +
          (options.big ? " Click a point to open it, drag to filter the table." : ""),
      }),
    );
    INTERP.charts.later(chart, () => draw(chart, sae, table, ids, params, options));
    return root;
  }

  /* The most common top categories have a colour of their own; the rest share grey. */
  function palette(sae, table) {
    if (!sae.palette) {
      const count = sae.categories.map(() => 0);
      for (let i = 0; i < sae.n_latents; i++)
        if (!table.dead[i] && table.category[i] >= 0) count[table.category[i]]++;
      const ranked = count
        .map((_, c) => c)
        .filter((c) => count[c])
        .sort((a, b) => count[b] - count[a] || a - b);
      const colors = sae.categories.map(() => OTHER);
      ranked.slice(0, INTERP.colors.CATEGORICAL.length).forEach((c, k) => {
        colors[c] = INTERP.colors.CATEGORICAL[k];
      });
      sae.palette = { colors, ranked };
    }
    return sae.palette;
  }

  function mapLegend(sae, table, params) {
    if (params.color !== "category" || !table.category) return null;
    const { colors, ranked } = palette(sae, table);
    const named = ranked.filter((c) => colors[c] !== OTHER);
    const entry = (c) =>
      el(
        "button",
        {
          type: "button",
          "aria-pressed": String(params.cat === sae.categories[c]),
          title: "show only " + sae.categories[c],
          onclick: () =>
            INTERP.state.set(
              { cat: params.cat === sae.categories[c] ? "" : sae.categories[c] },
              true,
            ),
        },
        el("i", { style: { background: colors[c] }, "aria-hidden": "true" }),
        sae.categories[c],
      );
    return el(
      "div",
      { class: "map-legend" },
      named.map(entry),
      ranked.length > named.length
        ? el(
            "span",
            {},
            el("i", { style: { background: OTHER }, "aria-hidden": "true" }),
            ranked.length - named.length + " more",
          )
        : null,
    );
  }

  function marker(sae, table, shown, params) {
    const base = { size: shown.length > 4000 ? 4 : 6, opacity: 0.8 };
    if (params.color === "category" && table.category) {
      const { colors } = palette(sae, table);
      return { ...base, color: shown.map((i) => colors[table.category[i]] || OTHER) };
    }
    const values = shown.map((i) =>
      params.color === "entropy" && table.entropy ? table.entropy[i] : Math.log10(table.density[i]),
    );
    const text = params.color === "entropy" ? "bits" : "log10 density";
    return {
      ...base,
      color: values,
      colorscale: INTERP.colors.scale("viridis"),
      colorbar: { thickness: 8, len: 0.6, outlinewidth: 0, title: { text, font: { size: 11 } } },
    };
  }

  /* Only the ring moves while list, colours and theme stay: the other points need no new upload. */
  async function moveRing(chart, table, current) {
    const at =
      current === null ? [[], []] : [[table.umap[2 * current]], [table.umap[2 * current + 1]]];
    await window.Plotly.restyle(
      chart,
      { x: [at[0]], y: [at[1]], customdata: [current === null ? [] : [current]] },
      [2],
    );
  }

  async function draw(chart, sae, table, ids, params, { big, current }) {
    const look = [sae.index, params.color, INTERP.colors.token("ink")].join();
    if (chart.drawnIds === ids && chart.drawnLook === look && !big)
      return moveRing(chart, table, current);
    const placed = [];
    for (let i = 0; i < sae.n_latents; i++)
      if (!table.dead[i] && !Number.isNaN(table.umap[2 * i])) placed.push(i);
    const inFilter = new Set(ids);
    const shown = placed.filter((i) => inFilter.has(i));
    const rest = placed.filter((i) => !inFilter.has(i));
    const xy = (group) => ({
      x: group.map((i) => table.umap[2 * i]),
      y: group.map((i) => table.umap[2 * i + 1]),
    });
    const hover = (i) =>
      "<b>" +
      i +
      "</b> " +
      INTERP.charts.short(INTERP.list.categoryName(sae, table, i), 40) +
      "<br>density " +
      percent(table.density[i]);
    const trace = { type: "scattergl", mode: "markers", hovertemplate: "%{text}<extra></extra>" };
    const traces = [
      {
        ...trace,
        ...xy(rest),
        customdata: rest,
        text: rest.map(hover),
        marker: { size: 4, color: INTERP.colors.token("line-strong"), opacity: 0.5 },
      },
      {
        ...trace,
        ...xy(shown),
        customdata: shown,
        text: shown.map(hover),
        marker: marker(sae, table, shown, params),
      },
    ];
    const ring = current === null ? [] : [current];
    if (!big)
      traces.push({
        ...trace,
        ...xy(ring),
        customdata: ring,
        hoverinfo: "skip",
        hovertemplate: null,
        marker: {
          size: 15,
          color: "rgba(0,0,0,0)",
          line: { width: 3, color: INTERP.colors.token("ink") },
        },
      });
    const bare = { visible: false, fixedrange: false };
    const node = await INTERP.charts.draw(
      chart,
      traces,
      {
        height: big ? 460 : 260,
        margin: { l: 4, r: 4, t: 4, b: 4 },
        xaxis: bare,
        yaxis: { ...bare },
        dragmode: big ? "select" : "pan",
        hovermode: "closest",
        uirevision: sae.index + "map" + params.box,
      },
      { scrollZoom: true },
    );
    if (!node.on) return;
    node.drawnIds = ids;
    node.drawnLook = look;
    if (node.dataset.bound) return;
    node.dataset.bound = "1";
    node.on("plotly_click", (event) =>
      INTERP.state.go({ view: "feature", sae: sae.index, feature: event.points[0].customdata }),
    );
    node.on("plotly_selected", (event) => {
      if (!event || !event.range) return;
      const range = [...event.range.x, ...event.range.y].map((v) => v.toFixed(3));
      INTERP.state.set({ box: range.join(",") }, true);
    });
  }

  return { panel };
})();
