/* The page of one latent: its head, its pictures, its charts, and the way to the next one. */
"use strict";

INTERP.feature = (function () {
  const { el, number, percent } = INTERP;
  const { stat } = INTERP.controls;
  const { text: word } = INTERP.glossary;
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
          INTERP.list.badges(sae, table, id),
          category
            ? el("span", {
                class: "badge soft",
                text: category + " " + Math.round(100 * table.share[id]) + " %",
                title: word("top category"),
              })
            : null,
          sae.undertrained ? el("span", { class: "badge warn", text: "UNDERTRAINED" }) : null,
        ),
      ),
      el(
        "dl",
        { class: "stats" },
        stat("Density", percent(table.density[id]), word("density")),
        stat("Active rows", number(INTERP.list.activeRows(sae, table, id)), word("row")),
        stat("Max", number(table.max[id]), "largest activation"),
        stat("Mean", number(table.mean[id]), "mean activation where active"),
        table.entropy
          ? stat(
              "Entropy",
              INTERP.fixed(table.entropy[id], 2) + " bit",
              word("entropy"),
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

  function drawOverlays() {
    if (!shown) return;
    const { latent } = shown.context;
    const params = INTERP.state.current().params;
    INTERP.gallery.draw(latent, params);
    // Links made earlier carry the look of then; the next latent should keep the look of now.
    for (const anchor of document.querySelectorAll("a[data-id]")) {
      const feature = Number(anchor.dataset.id);
      anchor.href = INTERP.state.link({ view: "feature", sae: shown.context.sae.index, feature });
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
    ahead(sae, table, id);
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
        el("div", { class: "gallery-box panel" }, INTERP.gallery.toolbar(context, state.params), INTERP.gallery.create(context)),
        el("div", { class: "charts" }, INTERP.panels.charts(context, ids, state.params)),
      ),
      INTERP.steering.panels(context),
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

  /* The top pictures are known before the shard: they load and decode while it does. */
  function ahead(sae, table, id) {
    if (INTERP.has(shardKey(sae, id))) return;
    for (const generation of INTERP.row(table.preview, id))
      if (generation >= 0) new Image().src = INTERP.imageUrl(sae.store.key, generation);
  }

  /* Who points at a link to a latent will soon ask for its shard. */
  function pointed(event) {
    const anchor = event.target.closest?.("a[data-id]");
    const sae = INTERP.meta().saes[INTERP.state.current().sae];
    if (anchor && sae) INTERP.load(shardKey(sae, Number(anchor.dataset.id))).catch(() => null);
  }

  document.addEventListener("pointerover", pointed, { passive: true });
  document.addEventListener("focusin", pointed, { passive: true });

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
