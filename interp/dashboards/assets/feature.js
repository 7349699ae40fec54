/* The page of one latent: pictures grouped top, quantiles, random, with adjustable overlays. */
"use strict";

INTERP.feature = (function () {
  const { el, number, percent } = INTERP;
  const { select, slider, segmented, stat } = INTERP.controls;
  const KINDS = { top: 0, quantile: 1, random: 2 };
  const SIZES = [
    ["72", "small"],
    ["112", "medium"],
    ["168", "large"],
  ];
  const GAP = 10;
  // What the page shows now; keyboard steps and slider moves reuse it.
  let shown = null;

  /* All that one latent's page needs, cut out of its shard. */
  function pick(sae, shard, id) {
    const local = id % sae.shard_size;
    const out = { id };
    for (const [name, values] of Object.entries(shard))
      out[name] = values.shape.length > 1 ? INTERP.row(values, local) : values[local];
    if (shard.maps) {
      [out.h, out.w] = shard.maps.shape.slice(2);
      out.map = (example) =>
        out.maps.subarray(example * out.h * out.w, (example + 1) * out.h * out.w);
    }
    return out;
  }

  function callText(sae, call) {
    const snr = sae.calls.log_snr[call];
    if (sae.calls.log_snr.length < 2 && snr === null) return "";
    return snr === null || snr === undefined
      ? "call " + call
      : "call " + call + ", log-SNR " + INTERP.fixed(snr, 1);
  }

  function card(context, example) {
    const { sae, store, latent } = context;
    const generation = latent.generation[example];
    const info = INTERP.generationInfo(store, generation);
    const value = number(latent.value[example]);
    const call = callText(sae, latent.call[example]);
    const image = el("img", {
      src: INTERP.imageUrl(sae.store.key, generation),
      decoding: "async",
      class: store.size[0] <= 64 ? "pixelated" : "",
      alt: info.text + "; activation " + value + (call ? "; " + call : ""),
    });
    const canvas = latent.maps
      ? el("canvas", { "data-example": example, "aria-hidden": "true" })
      : null;
    const open = () => INTERP.panels.zoom(context, example);
    return el(
      "figure",
      { class: "card", "data-row": latent.row[example] },
      el(
        "button",
        {
          type: "button",
          class: "picture",
          title: info.text,
          onclick: open,
          style: { aspectRatio: store.size[1] + " / " + store.size[0] },
        },
        image,
        canvas,
      ),
      el("figcaption", {}, el("b", { text: value }), el("span", { text: info.text })),
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

  function gallery(context) {
    const { latent } = context;
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

  function toolbar(context, params) {
    const share = (value) => Math.round(100 * value) + " %";
    const maps = INTERP.colors.OVERLAYS.map((name) => [name, name]);
    const controls = context.latent.maps
      ? [
          segmented(
            "Overlay",
            "map",
            [
              ["1", "overlay"],
              ["0", "image"],
            ],
            params,
          ),
          slider("Opacity", "opacity", 1, params, share),
          slider("Threshold", "threshold", 0.95, params, share),
          select("Colors", "cmap", maps, params.cmap),
          segmented(
            "Interpolation",
            "interp",
            [
              ["bilinear", "smooth"],
              ["nearest", "cells"],
            ],
            params,
          ),
        ]
      : [
          el("span", {
            class: "note",
            text: "A vector point has no positions, so there is no map: pictures only.",
          }),
        ];
    return el(
      "div",
      { class: "toolbar" },
      controls,
      segmented("Picture size", "size", SIZES, params),
    );
  }

  function header(context, ids) {
    const { sae, table, latent } = context;
    const id = latent.id;
    const category = INTERP.list.categoryName(sae, table, id);
    const at = ids.indexOf(id);
    const step = (label, offset, text) =>
      el(
        "button",
        {
          type: "button",
          class: "icon",
          "aria-label": label,
          title: label,
          disabled: !target(ids, id, offset).found,
          onclick: () => move(offset),
        },
        text,
      );
    return el(
      "header",
      { class: "feature-head" },
      el(
        "div",
        { class: "title" },
        el(
          "p",
          { class: "crumbs" },
          el("a", { href: "#/" }, "Overview"),
          " / ",
          el(
            "a",
            { href: INTERP.state.link({ view: "browse", sae: sae.index }) },
            sae.model + " · " + sae.point.name,
          ),
        ),
        el(
          "h1",
          {},
          "Latent ",
          String(id),
          INTERP.list.badges(table, id),
          category
            ? el("span", {
                class: "badge soft",
                text: category + " " + Math.round(100 * table.share[id]) + " %",
                title: "top category and its share of the category profile",
              })
            : null,
          sae.undertrained ? el("span", { class: "badge warn", text: "UNDERTRAINED" }) : null,
        ),
      ),
      el(
        "dl",
        { class: "stats" },
        stat("Density", percent(table.density[id]), "share of rows on which the latent is active"),
        stat("Max", number(table.max[id]), "largest activation"),
        stat("Mean", number(table.mean[id]), "mean activation where active"),
        table.entropy
          ? stat(
              "Entropy",
              INTERP.fixed(table.entropy[id], 2) + " bit",
              "entropy of the category profile",
            )
          : null,
      ),
      el(
        "nav",
        { class: "steps", "aria-label": "Features" },
        step("Previous feature (k)", -1, "←"),
        el("span", { text: at >= 0 ? at + 1 + " / " + ids.length : "not in list" }),
        step("Next feature (j)", 1, "→"),
        el(
          "button",
          { type: "button", class: "button", id: "copy", onclick: copyLink },
          "Copy link",
        ),
      ),
    );
  }

  async function copyLink() {
    const button = document.getElementById("copy");
    let done = true;
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      const area = el("textarea", { class: "visually-hidden" });
      area.value = location.href;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    button.textContent = done ? "Copied" : "Copy from the address bar";
    INTERP.announce(button.textContent);
    setTimeout(() => {
      button.textContent = "Copy link";
    }, 1500);
  }

  /* The neighbour of `id` in the list; from outside the list, its first entry. */
  function target(ids, id, offset) {
    const at = ids.indexOf(id);
    const next = at < 0 ? 0 : at + offset;
    return { id: ids[next], found: next >= 0 && next < ids.length };
  }

  function move(offset) {
    if (!shown) return;
    const { sae, table, store } = shown.context;
    const next = target(
      INTERP.list.order(sae, table, store, INTERP.state.current().params),
      shown.context.latent.id,
      offset,
    );
    if (next.found) INTERP.state.go({ view: "feature", sae: sae.index, feature: next.id });
  }

  /* The card size nearest above `size` at which whole cards fill the width: all groups share one grid. */
  function fitCards(size) {
    const box = document.querySelector(".gallery");
    if (!box) return;
    const count = Math.max(2, Math.floor((box.clientWidth + GAP) / (size + GAP)));
    box.style.setProperty(
      "--card",
      Math.floor(((box.clientWidth + GAP) / count - GAP) * 10) / 10 + "px",
    );
  }

  function drawOverlays() {
    if (!shown) return;
    const { latent } = shown.context;
    const params = INTERP.state.current().params;
    const look = INTERP.overlay.options(params);
    fitCards(Number(params.size));
    // Links made earlier carry the look of then; the next latent should keep the look of now.
    for (const anchor of document.querySelectorAll("a[data-id]")) {
      const feature = Number(anchor.dataset.id);
      anchor.href = INTERP.state.link({ view: "feature", sae: shown.context.sae.index, feature });
    }
    for (const canvas of document.querySelectorAll("canvas[data-example]")) {
      INTERP.overlay.draw(
        canvas,
        latent.map(Number(canvas.dataset.example)),
        latent.h,
        latent.w,
        look,
      );
    }
  }

  function frame(main, context, ids) {
    const list = INTERP.list.create({ ...context, current: context.latent.id }, ids, true);
    const rail = el(
      "aside",
      { class: "rail panel", "aria-label": "Feature list" },
      el("p", { class: "count", text: number(ids.length) + " latents" }),
      list,
    );
    const body = el("div", { class: "feature-body" });
    main.replaceChildren(el("section", { class: "feature" }, rail, body));
    return { list, body };
  }

  async function render(main, sae, table, store, state) {
    const id = state.feature;
    if (!(id >= 0 && id < sae.n_latents))
      throw new Error(
        "Latent " + id + " does not exist; this SAE has latents 0 to " + (sae.n_latents - 1) + ".",
      );
    const shard = await INTERP.load(shardKey(sae, id));
    if (INTERP.state.current().feature !== id) return;
    const latent = pick(sae, shard, id);
    const context = { sae, table, store, latent };
    const ids = INTERP.list.order(sae, table, store, state.params);
    const reuse = shown && shown.ids === ids && shown.body.isConnected && shown.context.sae === sae;
    const parts = reuse ? shown : frame(main, context, ids);
    shown = { context, ids, body: parts.body, list: parts.list };
    parts.body.replaceChildren(
      header(context, ids),
      el(
        "div",
        { class: "columns" },
        el("div", { class: "gallery-box panel" }, toolbar(context, state.params), gallery(context)),
        el("div", { class: "charts" }, INTERP.panels.charts(context, ids, state.params)),
      ),
      INTERP.panels.neighbors(context),
      INTERP.panels.provenance(context),
    );
    drawOverlays();
    shown.list.reveal(id);
    INTERP.lastShown = document.body.dataset.shown = sae.index + "/" + id;
    INTERP.announce("Latent " + id);
    prefetch(sae, ids, id);
  }

  const shardKey = (sae, id) =>
    "sae" + sae.index + "/shard" + String(Math.floor(id / sae.shard_size)).padStart(5, "0");

  function prefetch(sae, ids, id) {
    setTimeout(() => {
      for (const offset of [1, -1]) {
        const next = target(ids, id, offset);
        if (next.found) INTERP.load(shardKey(sae, next.id)).catch(() => null);
      }
    }, 300);
  }

  return { render, move, drawOverlays, callText };
})();
