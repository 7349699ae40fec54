/* The pictures of one latent: top, quantiles, random, with adjustable overlays. */
"use strict";

INTERP.gallery = (function () {
  const { el, number, fixed } = INTERP;
  const { select, slider, segmented } = INTERP.controls;
  const KINDS = { top: 0, quantile: 1, random: 2 };
  const SIZES = [
    ["72", "small"],
    ["112", "medium"],
    ["168", "large"],
  ];
  const GAP = 10;

  /* The noise level of a call in two words; nothing where a model has none. */
  function levelText(sae, call) {
    const snr = sae.calls.log_snr[call];
    if (sae.calls.log_snr.length < 2 && (snr === null || snr === undefined)) return "";
    return snr === null || snr === undefined ? "call " + call : "log-SNR " + fixed(snr, 1);
  }

  /* Largest activation of an example's map, in SAE units. */
  function peak(latent, example) {
    let most = 0;
    for (const level of latent.map(example))
      if (level !== INTERP.overlay.MISSING && level > most) most = level;
    return (most / INTERP.overlay.LEVELS) * latent.scale;
  }

  /* A frame around the map's cell that the number under the picture belongs to. */
  function spot(sae, latent, example) {
    const grid = sae.point.grid || [];
    const y = latent.y ? latent.y[example] : -1;
    if (!latent.maps || grid.length < 2 || y < 0) return null;
    const cell = (at, size, cells) => Math.min(cells - 1, Math.floor((at * cells) / size));
    const top = cell(y, grid[0], latent.h);
    const left = cell(latent.x[example], grid[1], latent.w);
    return el("i", {
      class: "spot",
      "aria-hidden": "true",
      style: {
        top: (100 * top) / latent.h + "%",
        left: (100 * left) / latent.w + "%",
        height: 100 / latent.h + "%",
        width: 100 / latent.w + "%",
      },
    });
  }

  /* Image, map and frame of one example; the zoomed picture shows the same. */
  function layers(context, example, label) {
    const { sae, store, latent } = context;
    const image = el("img", {
      src: INTERP.imageUrl(sae.store.key, latent.generation[example]),
      decoding: "async",
      class: store.size[0] <= 64 ? "pixelated" : "",
      alt: label,
    });
    const canvas = latent.maps
      ? el("canvas", { "data-example": example, "aria-hidden": "true" })
      : null;
    return [image, canvas, spot(sae, latent, example)].filter(Boolean);
  }

  function card(context, example) {
    const { sae, store, latent } = context;
    const info = INTERP.generationInfo(store, latent.generation[example]);
    const value = number(latent.value[example]);
    const level = levelText(sae, latent.call[example]);
    const most = latent.maps ? peak(latent, example) : 0;
    const elsewhere = most > 1.05 * latent.value[example];
    const label = info.text + "; activation " + value + (level ? "; " + level : "");
    return el(
      "figure",
      { class: "card", "data-row": latent.row[example] },
      el(
        "button",
        {
          type: "button",
          class: "picture",
          title: info.text,
          onclick: () => INTERP.panels.zoom(context, example),
          style: { aspectRatio: store.size[1] + " / " + store.size[0] },
        },
        layers(context, example, label),
      ),
      el(
        "figcaption",
        {},
        el(
          "span",
          { class: "numbers" },
          el("b", {
            text: value,
            title: "activation" + (latent.maps ? " at the framed position" : ""),
          }),
          elsewhere
            ? el("span", {
                text: "peak " + number(most, 2),
                title: "largest activation of this image, at another position",
              })
            : null,
          level ? el("span", { class: "level", text: level }) : null,
        ),
        el("span", { class: "caption", text: info.text, title: info.text }),
      ),
    );
  }

  function group(context, title, note, examples) {
    if (!examples.length) return null;
    return el(
      "section",
      { class: "group", style: { "--count": examples.length } },
      el("h3", {}, title, el("small", { text: note })),
      el(
        "div",
        { class: "grid" },
        examples.map((example) => card(context, example)),
      ),
    );
  }

  function examplesOf(latent, kind, bin) {
    const found = [];
    for (let i = 0; i < latent.row.length; i++) {
      if (
        latent.row[i] >= 0 &&
        latent.kind[i] === KINDS[kind] &&
        (bin === undefined || latent.bin[i] === bin)
      )
        found.push(i);
    }
    return found;
  }

  /* Every kept example once, by falling activation: what a latent with few rows has. */
  function once(latent) {
    const rows = new Map();
    for (let i = 0; i < latent.row.length; i++)
      if (latent.row[i] >= 0 && !rows.has(latent.row[i])) rows.set(latent.row[i], i);
    return [...rows.values()].sort((a, b) => latent.value[b] - latent.value[a]);
  }

  function few(context, active) {
    const { sae, latent } = context;
    const examples = once(latent);
    return el(
      "div",
      { class: "gallery" },
      el("p", {
        class: "caution",
        role: "note",
        text:
          "Active on only " +
          number(active) +
          " of " +
          number(sae.n_rows) +
          " rows: too little evidence for a name. Each example is shown once, without quantiles or a random draw.",
      }),
      group(
        context,
        "All examples kept",
        examples.length + " of " + number(active) + " active rows",
        examples,
      ),
    );
  }

  function create(context) {
    const { sae, table, latent } = context;
    const active = INTERP.list.activeRows(sae, table, latent.id);
    if (active > 0 && active < INTERP.list.FEW && once(latent).length) return few(context, active);
    const bins = [...new Set(examplesOf(latent, "quantile").map((i) => latent.bin[i]))].sort(
      (a, b) => b - a,
    );
    const n = Math.max(...bins, 0) + 1;
    const groups = [
      group(context, "Top", "largest activations", examplesOf(latent, "top")),
      ...bins.map((bin) =>
        group(
          context,
          "Quantile " + (bin + 1) + " of " + n,
          "",
          examplesOf(latent, "quantile", bin),
        ),
      ),
      group(context, "Random", "any row on which it is active", examplesOf(latent, "random")),
    ].filter(Boolean);
    if (!groups.length)
      return el("p", {
        class: "empty",
        text: "This latent never fired on the described rows, so there is no picture to show.",
      });
    return el("div", { class: "gallery" }, groups);
  }

  /* What the overlay's colors stand for; repainted with the overlays. */
  function legend(node, latent, look) {
    const stops = Array.from({ length: 9 }, (_, i) => INTERP.overlay.css(look, i / 8)).join(",");
    const latents = look.scale === "latent";
    node.hidden = !look.show;
    node.replaceChildren(
      el("span", { text: "0" }),
      el("i", {
        style: { background: "linear-gradient(to right," + stops + ")" },
        "aria-hidden": "true",
      }),
      el("span", { text: latents ? number(latent.scale) : "peak of each image" }),
      el("small", {
        text:
          (latents ? "largest activation of this latent. " : "colors differ between images. ") +
          (look.smooth ? "Line: half of that. " : "") +
          "Frame: position of the number.",
      }),
    );
  }

  function mapControls(params) {
    const share = (value) => Math.round(100 * value) + " %";
    const maps = INTERP.colors.OVERLAYS.map((name) => [name, name]);
    const overlay = [
      ["1", "overlay"],
      ["0", "image"],
    ];
    const scale = [
      ["latent", "latent's maximum"],
      ["image", "each image"],
    ];
    const cells = [
      ["bilinear", "smooth"],
      ["nearest", "cells"],
    ];
    return [
      segmented("Overlay", "map", overlay, params),
      slider("Opacity", "opacity", 1, params, share),
      slider("Threshold", "threshold", 0.95, params, share),
      select("Colors", "cmap", maps, params.cmap),
      select("Scale", "scale", scale, params.scale),
      segmented("Interpolation", "interp", cells, params),
    ];
  }

  function toolbar(context, params) {
    const note = "A vector point has no positions, so there is no map: pictures only.";
    return el(
      "div",
      { class: "toolbar" },
      context.latent.maps ? mapControls(params) : el("span", { class: "note", text: note }),
      segmented("Picture size", "size", SIZES, params),
      context.latent.maps ? el("div", { class: "legend", id: "overlay-legend" }) : null,
    );
  }

  /* The card size nearest above `size` at which whole cards fill the width: all groups share one grid. */
  function fitCards(size) {
    const box = document.querySelector(".gallery");
    if (!box) return;
    const count = Math.max(2, Math.floor((box.clientWidth + GAP) / (size + GAP)));
    const width = Math.floor(((box.clientWidth + GAP) / count - GAP) * 10) / 10 + "px";
    // Kept on the root: the next latent's cards have their size before they are laid out.
    const style = document.documentElement.style;
    if (style.getPropertyValue("--card") !== width) style.setProperty("--card", width);
  }

  /* Paint every map of the page, and say what its colors mean. */
  function draw(latent, params) {
    const look = INTERP.overlay.options(params);
    fitCards(Number(params.size));
    const bar = document.getElementById("overlay-legend");
    if (bar) legend(bar, latent, look);
    for (const canvas of document.querySelectorAll("canvas[data-example]")) {
      const map = latent.map(Number(canvas.dataset.example));
      INTERP.overlay.draw(canvas, map, latent.h, latent.w, look);
    }
  }

  return { create, toolbar, draw, layers, levelText };
})();
