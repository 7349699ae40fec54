/* Charts, neighbours, provenance and the enlarged picture of one latent. */
"use strict";

INTERP.panels = (function () {
  const { el, number } = INTERP;
  const { facts } = INTERP.controls;
  const FEW_ROWS = 20;

  function panel(title, note, chartLabel, draw) {
    const chart = INTERP.charts.place(title, chartLabel);
    INTERP.charts.later(chart, () => draw(chart));
    return el(
      "section",
      { class: "panel" },
      el("div", { class: "panel-head" }, el("h2", { text: title })),
      chart,
      note ? el("p", { class: "note", text: note }) : null,
    );
  }

  function histogram(chart, { sae, latent }) {
    const edges = sae.edges;
    const centers = edges.slice(1).map((edge, i) => 10 ** ((edge + edges[i]) / 2));
    const widths = edges.slice(1).map((edge, i) => 10 ** edge - 10 ** edges[i]);
    const used = Array.from(latent.histogram)
      .map((count, i) => (count > 0 ? i : -1))
      .filter((i) => i >= 0);
    const range = used.length
      ? [edges[used[0]] - 0.2, edges[used[used.length - 1] + 1] + 0.2]
      : [edges[0], edges[edges.length - 1]];
    // A logarithmic axis needs more than a decade to be readable.
    const log = Math.max(...latent.histogram) >= FEW_ROWS;
    const counts = log
      ? { type: "log", dtick: 1, exponentformat: "power" }
      : { type: "linear", rangemode: "tozero" };
    return INTERP.charts.draw(
      chart,
      [
        {
          type: "bar",
          x: centers,
          y: Array.from(latent.histogram),
          width: widths,
          marker: { color: INTERP.colors.token("accent"), line: { width: 0 } },
          hovertemplate: "activation %{x:.3g}<br>%{y:,} rows<extra></extra>",
        },
      ],
      {
        xaxis: INTERP.charts.axis("activation (SAE units, log scale)", {
          type: "log",
          range,
          ...INTERP.charts.logTicks(...range),
        }),
        yaxis: INTERP.charts.axis("rows per bin", counts),
      },
    );
  }

  function profile(chart, { sae, latent }) {
    const snr = sae.calls.log_snr;
    const known = snr.every((value) => value !== null);
    const x = known ? snr : snr.map((_, i) => i);
    const text = snr.map(
      (_, i) => "call " + i + (sae.calls.t[i] === null ? "" : ", t = " + number(sae.calls.t[i])),
    );
    return INTERP.charts.draw(
      chart,
      [
        {
          type: "scatter",
          mode: "lines+markers",
          x,
          y: Array.from(latent.calls),
          text,
          line: { color: INTERP.colors.token("accent"), width: 2 },
          marker: { size: 6 },
          fill: "tozeroy",
          fillcolor: INTERP.colors.token("accent-soft"),
          hovertemplate: "%{text}<br>mean activation %{y:.3g}<extra></extra>",
        },
      ],
      {
        xaxis: INTERP.charts.axis(
          known ? "log-SNR (nats): noise → image" : "denoiser call (index)",
        ),
        yaxis: INTERP.charts.axis("mean activation (SAE units)", { rangemode: "tozero" }),
      },
    );
  }

  function categories(chart, { sae, latent }) {
    const pairs = sae.categories
      .map((name, i) => [name, latent.categories[i]])
      .filter((pair) => !Number.isNaN(pair[1]));
    const top = pairs
      .sort((a, b) => b[1] - a[1])
      .slice(0, 10)
      .reverse();
    return INTERP.charts.draw(
      chart,
      [
        {
          type: "bar",
          orientation: "h",
          y: top.map((_, i) => i),
          x: top.map((pair) => pair[1]),
          text: top.map((pair) => INTERP.charts.short(pair[0], 60)),
          textposition: "none",
          marker: { color: INTERP.colors.token("accent") },
          hovertemplate: "%{text}<br>mean activation %{x:.3g}<extra></extra>",
        },
      ],
      {
        height: 70 + 19 * top.length,
        bargap: 0.3,
        xaxis: INTERP.charts.axis("mean activation (SAE units)", { rangemode: "tozero" }),
        yaxis: INTERP.charts.axis("", {
          tickvals: top.map((_, i) => i),
          ticktext: top.map((pair) => INTERP.charts.short(pair[0], 18)),
          ticks: "",
        }),
      },
    );
  }

  function charts(context, ids, params) {
    const { sae, table, latent } = context;
    const dead = table.dead[latent.id];
    const parts = [];
    if (!dead)
      parts.push(
        panel(
          "Activations",
          "Rows on which the latent is active, of " + number(sae.n_rows) + ".",
          "Histogram of activations",
          (chart) => histogram(chart, context),
        ),
      );
    if (!dead && latent.calls.length > 1)
      parts.push(
        panel("When in denoising", null, "Mean activation by denoiser call", (chart) =>
          profile(chart, context),
        ),
      );
    if (!dead && latent.categories && latent.categories.length)
      parts.push(
        panel("Categories", null, "Mean activation by category", (chart) =>
          categories(chart, context),
        ),
      );
    if (table.umap)
      parts.push(
        INTERP.map.panel(sae, table, ids, params, {
          big: false,
          current: dead ? null : latent.id,
        }),
      );
    return parts;
  }

  function neighborCard(context, id, score, label) {
    const { sae, table, store } = context;
    return el(
      "a",
      {
        class: "neighbor",
        href: INTERP.state.link({ view: "feature", sae: sae.index, feature: id }),
        "data-id": id,
      },
      el(
        "span",
        { class: "thumbs" },
        INTERP.list.thumbs(sae, table, store, id, 3),
      ),
      el(
        "span",
        { class: "about" },
        el("b", { text: String(id) }),
        INTERP.list.badges(sae, table, id),
        el("small", {
          text: label + " " + INTERP.fixed(score, 2),
          title: INTERP.glossary.text(label),
        }),
      ),
      el("span", { class: "name", text: INTERP.list.categoryName(sae, table, id) }),
    );
  }

  function neighborRow(context, title, note, ids, scores, label) {
    const cards = Array.from(ids)
      .map((id, k) =>
        id >= 0 && scores[k] === scores[k] ? neighborCard(context, id, scores[k], label) : null,
      )
      .filter(Boolean);
    if (!cards.length) return null;
    return el(
      "section",
      { class: "panel" },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: title }),
        el("p", { class: "note", text: note }),
      ),
      el("div", { class: "neighbors" }, cards),
    );
  }

  function neighbors(context) {
    const { latent, sae } = context;
    return el(
      "div",
      { class: "neighbor-rows" },
      neighborRow(
        context,
        "Decoder neighbors",
        "Latents whose decoder directions point the same way; cos: 1 is the same direction.",
        latent.neighbor,
        latent.cosine,
        "cos",
      ),
      latent.coactive
        ? neighborRow(
            context,
            "Active together",
            "Latents that fire on the same rows.",
            latent.coactive,
            latent.coactive_score,
            sae.coactive_measure,
          )
        : null,
    );
  }

  function provenance({ sae }) {
    const known = [
      ["model", sae.model],
      ["point", sae.point.name],
      ["SAE", sae.sae.digest],
      ...Object.entries(sae.sae.spec || {}),
      ["store", sae.store.hash],
      ["rows", number(sae.n_rows)],
      ["generations", number(sae.n_generations)],
      ["seed of examples and map", sae.seed],
      ["notes", sae.notes.join("; ")],
    ];
    const more = {
      ...(sae.sae.recipe || {}),
      ...(sae.store.recipe || {}),
      ...(typeof sae.store.model === "object" ? sae.store.model : {}),
    };
    return el(
      "details",
      { class: "panel provenance" },
      el("summary", { text: "Provenance" }),
      facts([...known, ...Object.entries(more)]),
    );
  }

  /* The enlarged picture: its map, and where its row comes from. */
  function zoom(context, example) {
    const { sae, store, latent } = context;
    const generation = latent.generation[example];
    const info = INTERP.generationInfo(store, generation);
    const call = latent.call[example];
    const pictures = INTERP.gallery.layers(context, example, info.text);
    const known = [
      ["activation", number(latent.value[example], 4)],
      ["caption", info.caption || info.prompt],
      ["category", info.category],
      ["image", info.image_id],
      ["seed", info.seed],
      ["generation", generation],
      ["call", sae.calls.log_snr.length > 1 ? INTERP.feature.callText(sae, call) : null],
      ["t", sae.calls.t[call]],
      [
        "position (y, x)",
        latent.y && latent.y[example] >= 0 ? latent.y[example] + ", " + latent.x[example] : null,
      ],
      ["row", latent.row[example]],
      ["store", sae.store.hash],
      ["split", info.split],
      ["source", info.source],
    ];
    const dialog = el(
      "dialog",
      {
        class: "zoom",
        "aria-label": "Example",
        onclose: () => dialog.remove(),
        onclick: (event) => {
          if (event.target === dialog) dialog.close();
        },
      },
      el(
        "div",
        { class: "zoom-body" },
        el(
          "div",
          { class: "picture", style: { aspectRatio: store.size[1] + " / " + store.size[0] } },
          pictures,
        ),
        el(
          "div",
          {},
          el(
            "div",
            { class: "panel-head" },
            el("h2", { text: info.text }),
            el("button", {
              type: "button",
              class: "icon",
              "aria-label": "Close",
              onclick: () => dialog.close(),
              text: "✕",
            }),
          ),
          facts(known),
          el("p", {
            class: "note",
            text: "The row number finds this activation in the store; model, seed and call make the picture again.",
          }),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    INTERP.feature.drawOverlays();
  }

  return { charts, neighbors, provenance, zoom, panel };
})();
