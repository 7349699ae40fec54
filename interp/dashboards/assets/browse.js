/* One SAE: what it is, its feature table with filters, and the map of decoder directions. */
"use strict";

INTERP.browse = (function () {
  const { el, number, percent } = INTERP;
  const { stat, debounce, toggle, select } = INTERP.controls;
  const { text } = INTERP.glossary;

  function stats(sae) {
    const evaluation = sae.evaluation || {};
    return el(
      "dl",
      { class: "stats" },
      stat("Latents", number(sae.n_latents)),
      stat(
        "Dead",
        percent(sae.n_dead / sae.n_latents),
        "share of latents that never fired on the described rows",
      ),
      stat("FVU", INTERP.fixed(evaluation.fvu), text("FVU") + "; on all held-out rows"),
      stat(
        "Best baseline",
        INTERP.quality.besideText(evaluation),
        INTERP.quality.besideTitle(evaluation),
      ),
      stat("L0", number(evaluation.l0), text("L0")),
      stat(
        "Damage",
        sae.substitution ? INTERP.fixed(sae.substitution.damage) : "–",
        text("damage"),
      ),
      stat("Rows", number(sae.n_rows), text("row")),
    );
  }

  function filters(sae, params) {
    const search = debounce((value) => INTERP.state.set({ q: value }), 140);
    const box = el("input", {
      type: "search",
      id: "search",
      placeholder: "Search captions, categories, #latent",
      "aria-label": "Search features",
      oninput: (event) => search(event.target.value),
    });
    box.value = params.q;
    const categories = [["", "all categories"], ...sae.categories.map((name) => [name, name])];
    return el(
      "div",
      { class: "filters", role: "search" },
      box,
      sae.categories.length ? select("Category", "cat", categories, params.cat) : null,
      toggle("dense", "dense", params, "show latents that are dense: " + text("dense")),
      toggle("dead", "dead", params, "show latents that are dead: " + text("dead")),
      params.box
        ? el(
            "button",
            { type: "button", class: "chip", onclick: () => INTERP.state.set({ box: "" }, true) },
            "map selection ✕",
          )
        : null,
    );
  }

  function title(sae) {
    return el(
      "div",
      { class: "title" },
      el("p", { class: "crumbs" }, el("a", { href: "#/" }, "Overview"), " / ", sae.model),
      el(
        "h1",
        {},
        sae.point.name,
        sae.undertrained ? el("span", { class: "badge warn", text: "UNDERTRAINED" }) : null,
        INTERP.quality.beatenBadge(sae.evaluation),
      ),
      el("p", { class: "sub", text: describe(sae) }),
      sae.notes.length ? el("p", { class: "note", text: sae.notes.join("; ") + "." }) : null,
    );
  }

  function describe(sae) {
    const spec = sae.sae.spec || {};
    const parts = [
      spec.variant,
      spec.k ? "k = " + spec.k : null,
      "d = " + sae.point.width,
      [...new Set([sae.point.stream, sae.point.kind])].join(" "),
      (sae.point.grid || []).length ? "grid " + sae.point.grid.join(" × ") : "vector, no map",
    ];
    return parts.filter(Boolean).join(" · ");
  }

  function render(main, sae, columns, store, state) {
    const ids = INTERP.list.order(sae, columns, store, state.params);
    const list = INTERP.list.create({ sae, table: columns, store, current: null }, ids, false);
    const hidden = sae.n_latents - ids.length;
    const count = el("p", {
      class: "count",
      "aria-live": "polite",
      text:
        number(ids.length) +
        " of " +
        number(sae.n_latents) +
        " latents" +
        (hidden ? " · " + number(hidden) + " hidden by filters" : ""),
    });
    const aside = columns.umap
      ? INTERP.map.panel(sae, columns, ids, state.params, { big: true, current: null })
      : null;
    main.replaceChildren(
      el(
        "section",
        { class: "browse" },
        el("div", { class: "lead" }, title(sae), stats(sae)),
        el(
          "div",
          { class: "split" + (aside ? "" : " single") },
          el("div", { class: "panel table-panel" }, filters(sae, state.params), count, list),
          aside,
        ),
        INTERP.quality.panel(sae, main.querySelector(".quality-panel")?.open ?? true),
      ),
    );
    list.refresh();
    // Back from a latent's page the table stands where the reader left it.
    const last = /^(\d+)\/(\d+)$/.exec(INTERP.lastShown || "");
    if (last && Number(last[1]) === sae.index) list.reveal(Number(last[2]));
    if (!ids.length)
      list.querySelector(".scroller").append(
        el("p", {
          class: "empty",
          text: "No latent matches. Clear the search, or show dead and dense latents.",
        }),
      );
  }

  /* Redraw only what a filter or a sort changes, so that the search box keeps its focus. */
  function update(main, sae, columns, store, state) {
    const focus =
      document.activeElement && document.activeElement.id === "search"
        ? document.activeElement.selectionStart
        : null;
    render(main, sae, columns, store, state);
    if (focus !== null) {
      const box = document.getElementById("search");
      box.focus();
      box.setSelectionRange(focus, focus);
    }
  }

  return { update };
})();
