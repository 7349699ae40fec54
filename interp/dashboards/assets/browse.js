/* One SAE: what it is, its feature table with filters, and the map of decoder directions. */
"use strict";

INTERP.browse = (function () {
  const { el, number, percent } = INTERP;
  const { stat, debounce, toggle, select, table } = INTERP.controls;

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
      stat(
        "FVU",
        INTERP.fixed(evaluation.fvu),
        "fraction of variance unexplained, on held-out rows",
      ),
      stat("L0", number(evaluation.l0), "active latents per row"),
      stat(
        "Damage",
        sae.substitution ? INTERP.fixed(sae.substitution.damage) : "–",
        "image damage when the reconstruction replaces the activations: 0 is no edit, 1 is mean ablation",
      ),
      stat("Rows", number(sae.n_rows), "rows described"),
    );
  }

  const CALLS = [
    ["Call", "", true],
    ["log-SNR", "nats", true],
    ["FVU", "", true],
    ["L0", "", true],
  ];
  const CODES = [["Code"], ["k", "coefficients per row", true], ["FVU", "", true]];

  function line(texts, leading) {
    const cells = texts.map((text, i) => el("td", { class: i < leading ? "" : "num", text }));
    return el("tr", {}, cells);
  }

  /* How good the SAE is beside baselines, and at each noise level. */
  function quality({ evaluation, substitution }, open) {
    if (!evaluation) return null;
    const beside = (evaluation.baselines || []).map((one) =>
      line([one.name, number(one.k), INTERP.fixed(one.fvu)], 1),
    );
    const calls = (evaluation.per_call || []).map((one) =>
      line([one.call, INTERP.fixed(one.log_snr, 1), INTERP.fixed(one.fvu), number(one.l0)], 0),
    );
    if (!beside.length && calls.length < 2) return null;
    const facts = INTERP.controls.facts([
      ["held-out rows", number(evaluation.n_rows)],
      ["held-out generations", number(evaluation.n_generations)],
      ["||mean|| / ||std||", number(evaluation.severity)],
      ["damage", substitution && INTERP.overview.damageText(substitution)],
      ["distance", substitution && substitution.distance],
    ]);
    return el(
      "details",
      { class: "panel provenance", open },
      el("summary", { text: "Quality beside baselines and by noise level" }),
      el(
        "div",
        { class: "quality" },
        beside.length ? table(CODES, beside, "Baselines") : null,
        calls.length > 1 ? table(CALLS, calls, "By call") : null,
        facts,
      ),
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
      toggle("dense", "dense", params),
      toggle("dead", "dead", params),
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
        quality(sae, main.querySelector("details.provenance")?.open),
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
