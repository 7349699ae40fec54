/* One SAE: what it is, its feature table with filters, and the map of decoder directions. */
"use strict";

INTERP.browse = (function () {
  const { el, number, percent } = INTERP;
  const OTHER = "#9a9a9a";

  function stat(label, value, title) {
    return el("div", { class: "stat", title: title || "" }, el("dt", { text: label }), el("dd", { text: value }));
  }

  function stats(sae) {
    const evaluation = sae.evaluation || {};
    const damage = sae.substitution ? sae.substitution.damage : null;
    return el("dl", { class: "stats" },
      stat("Latents", number(sae.n_latents)),
      stat("Dead", percent(sae.n_dead / sae.n_latents), "share of latents that never fired on the described rows"),
      stat("FVU", INTERP.fixed(evaluation.fvu), "fraction of variance unexplained, on held-out rows"),
      stat("L0", number(evaluation.l0), "active latents per row"),
      stat("Damage", damage === null || damage === undefined ? "–" : INTERP.fixed(damage), "image damage when the reconstruction replaces the activations: 0 is no edit, 1 is mean ablation"),
      stat("Rows", number(sae.n_rows), "rows described"));
  }

  /* How good the SAE is beside baselines, and at each noise level. */
  function quality(sae) {
    const evaluation = sae.evaluation;
    if (!evaluation) return null;
    const calls = (evaluation.per_call || []).filter((call) => evaluation.per_call.length > 1);
    const beside = evaluation.baselines || [];
    if (!calls.length && !beside.length) return null;
    const cell = (text) => el("td", { class: "num", text });
    const table = INTERP.overview.tableOf;
    return el("details", { class: "panel provenance" }, el("summary", { text: "Quality beside baselines" + (calls.length ? " and by noise level" : "") }),
      el("div", { class: "quality" },
        beside.length ? table([["Code"], ["k", "coefficients per row", true], ["FVU", "", true]], beside.map((one) => el("tr", {}, el("td", { text: one.name }), cell(number(one.k)), cell(INTERP.fixed(one.fvu)))), "Baselines") : null,
        calls.length ? table([["Call", "", true], ["log-SNR", "", true], ["FVU", "", true], ["L0", "", true]], calls.map((call) => el("tr", {}, cell(String(call.call)), cell(INTERP.fixed(call.log_snr, 1)), cell(INTERP.fixed(call.fvu)), cell(number(call.l0)))), "By call") : null),
      el("p", { class: "note", text: number(evaluation.n_rows) + " held-out rows; activation outliers ||mean|| / ||std|| = " + number(evaluation.severity) + "." }));
  }

  function debounce(action, wait) {
    let timer = 0;
    return (...values) => { clearTimeout(timer); timer = setTimeout(() => action(...values), wait); };
  }

  function toggle(label, name, params) {
    const input = el("input", { type: "checkbox", name, onchange: (event) => INTERP.state.set({ [name]: event.target.checked ? "1" : "0" }, true) });
    input.checked = params[name] === "1";
    return el("label", { class: "check" }, input, label);
  }

  function select(label, name, options, value) {
    const node = el("select", { name, "aria-label": label, onchange: (event) => INTERP.state.set({ [name]: event.target.value }, true) },
      options.map(([key, text]) => el("option", { value: key, text, selected: key === value })));
    return el("label", { class: "field" }, el("span", { text: label }), node);
  }

  function filters(sae, table, params) {
    const search = debounce((value) => INTERP.state.set({ q: value }), 140);
    const box = el("input", { type: "search", id: "search", placeholder: "Search captions, categories, #latent", "aria-label": "Search features", oninput: (event) => search(event.target.value) });
    box.value = params.q;
    const categories = [["", "all categories"], ...sae.categories.map((name) => [name, name])];
    return el("div", { class: "filters", role: "search" }, box,
      sae.categories.length ? select("Category", "cat", categories, params.cat) : null,
      toggle("dense", "dense", params), toggle("dead", "dead", params),
      params.box ? el("button", { type: "button", class: "chip", onclick: () => INTERP.state.set({ box: "" }, true) }, "map selection ✕") : null);
  }

  function title(sae) {
    return el("div", { class: "title" },
      el("p", { class: "crumbs" }, el("a", { href: "#/" }, "Overview"), " / ", sae.model),
      el("h1", {}, sae.point.name, sae.undertrained ? el("span", { class: "badge warn", text: "UNDERTRAINED" }) : null),
      el("p", { class: "sub", text: describe(sae) }));
  }

  function describe(sae) {
    const spec = sae.sae.spec || {};
    const parts = [spec.variant, spec.k ? "k = " + spec.k : null, "d = " + sae.point.width, sae.point.stream + " " + sae.point.kind,
      (sae.point.grid || []).length ? "grid " + sae.point.grid.join(" × ") : "vector, no map"];
    return parts.filter(Boolean).join(" · ");
  }

  function render(main, sae, table, store, state) {
    const ids = INTERP.list.order(sae, table, store, state.params);
    const list = INTERP.list.create({ sae, table, store, current: null }, ids, false);
    const hidden = sae.n_latents - ids.length;
    const count = el("p", { class: "count", "aria-live": "polite", text: number(ids.length) + " of " + number(sae.n_latents) + " latents" + (hidden ? " · " + number(hidden) + " hidden by filters" : "") });
    const aside = table.umap ? mapPanel(sae, table, ids, state.params, { big: true, current: null }) : null;
    main.replaceChildren(el("section", { class: "browse" },
      el("div", { class: "lead" }, title(sae), stats(sae)), quality(sae),
      el("div", { class: "split" + (aside ? "" : " single") },
        el("div", { class: "panel table-panel" }, filters(sae, table, state.params), count, list),
        aside)));
    list.refresh();
    if (!ids.length) list.querySelector(".scroller").append(el("p", { class: "empty", text: "No latent matches. Clear the search, or show dead and dense latents." }));
  }

  /* Redraw only what a filter or a sort changes, so that the search box keeps its focus. */
  function update(main, sae, table, store, state) {
    const focus = document.activeElement && document.activeElement.id === "search" ? document.activeElement.selectionStart : null;
    render(main, sae, table, store, state);
    if (focus !== null) {
      const box = document.getElementById("search");
      box.focus();
      box.setSelectionRange(focus, focus);
    }
  }

  /* The map of all living latents. big: on the SAE's page, where dragging filters the table. */
  function mapPanel(sae, table, ids, params, options) {
    const key = sae.index + (options.big ? "big" : "small");
    const chart = INTERP.charts.place("map" + key, "Map of decoder directions; every point is a latent");
    chart.classList.add("map");
    const colors = [["category", "top category"], ["density", "density"], ["entropy", "entropy"]].filter(([name]) => name === "density" || table[name]);
    const panel = el("section", { class: "panel map-panel" },
      el("div", { class: "panel-head" }, el("h2", { text: "Decoder map" }), select("Color", "color", colors, params.color)), chart,
      options.big ? mapLegend(sae, table, params) : null,
      el("p", { class: "note", text: "UMAP of decoder directions; distances between clusters mean little. Dead latents are left out." + (options.big ? " Click a point to open it, drag to filter the table." : "") }));
    requestAnimationFrame(() => setTimeout(() => drawMap(chart, sae, table, ids, params, options), 0));
    return panel;
  }

  /* The nine most common top categories have a colour of their own; the rest share grey. */
  function palette(sae, table) {
    if (!sae.palette) {
      const count = sae.categories.map(() => 0);
      for (let i = 0; i < sae.n_latents; i++) if (!table.dead[i] && table.category[i] >= 0) count[table.category[i]]++;
      const ranked = count.map((_, c) => c).filter((c) => count[c]).sort((a, b) => count[b] - count[a] || a - b);
      const colors = sae.categories.map(() => OTHER);
      ranked.slice(0, INTERP.colors.CATEGORICAL.length).forEach((c, k) => { colors[c] = INTERP.colors.CATEGORICAL[k]; });
      sae.palette = { colors, ranked };
    }
    return sae.palette;
  }

  function mapLegend(sae, table, params) {
    if (params.color !== "category" || !table.category) return null;
    const { colors, ranked } = palette(sae, table);
    const named = ranked.filter((c) => colors[c] !== OTHER);
    const entry = (c) => el("button", { type: "button", "aria-pressed": String(params.cat === sae.categories[c]), title: "show only " + sae.categories[c], onclick: () => INTERP.state.set({ cat: params.cat === sae.categories[c] ? "" : sae.categories[c] }, true) },
      el("i", { style: { background: colors[c] }, "aria-hidden": "true" }), sae.categories[c]);
    return el("div", { class: "map-legend" }, named.map(entry), ranked.length > named.length ? el("span", {}, el("i", { style: { background: OTHER }, "aria-hidden": "true" }), (ranked.length - named.length) + " more") : null);
  }

  function marker(sae, table, shown, params) {
    const base = { size: shown.length > 4000 ? 4 : 6, opacity: 0.8 };
    if (params.color === "category" && table.category) {
      const { colors } = palette(sae, table);
      return { ...base, color: shown.map((i) => colors[table.category[i]] || OTHER) };
    }
    const values = shown.map((i) => (params.color === "entropy" && table.entropy ? table.entropy[i] : Math.log10(table.density[i])));
    const text = params.color === "entropy" ? "bits" : "log10 density";
    return { ...base, color: values, colorscale: INTERP.colors.scale("viridis"), colorbar: { thickness: 8, len: 0.6, outlinewidth: 0, title: { text, font: { size: 11 } } } };
  }

  /* Only the ring moves while list, colours and theme stay: the other points need no new upload. */
  async function moveRing(chart, table, current) {
    const at = current === null ? [[], []] : [[table.umap[2 * current]], [table.umap[2 * current + 1]]];
    await window.Plotly.restyle(chart, { x: [at[0]], y: [at[1]], customdata: [current === null ? [] : [current]] }, [2]);
  }

  async function drawMap(chart, sae, table, ids, params, { big, current }) {
    const look = [sae.index, params.color, INTERP.colors.token("ink")].join();
    if (chart.drawnIds === ids && chart.drawnLook === look && !big) return moveRing(chart, table, current);
    const placed = [];
    for (let i = 0; i < sae.n_latents; i++) if (!table.dead[i] && !Number.isNaN(table.umap[2 * i])) placed.push(i);
    const inFilter = new Set(ids);
    const shown = placed.filter((i) => inFilter.has(i));
    const rest = placed.filter((i) => !inFilter.has(i));
    const xy = (group) => ({ x: group.map((i) => table.umap[2 * i]), y: group.map((i) => table.umap[2 * i + 1]) });
    const hover = (i) => "<b>" + i + "</b> " + INTERP.charts.short(INTERP.list.categoryName(sae, table, i), 40) + "<br>density " + percent(table.density[i]);
    const trace = { type: "scattergl", mode: "markers", hovertemplate: "%{text}<extra></extra>" };
    const traces = [
      { ...trace, ...xy(rest), customdata: rest, text: rest.map(hover), marker: { size: 4, color: INTERP.colors.token("line-strong"), opacity: 0.5 } },
      { ...trace, ...xy(shown), customdata: shown, text: shown.map(hover), marker: marker(sae, table, shown, params) },
    ];
    const ring = current === null ? [] : [current];
    if (!big) traces.push({ ...trace, ...xy(ring), customdata: ring, hoverinfo: "skip", hovertemplate: null, marker: { size: 15, color: "rgba(0,0,0,0)", line: { width: 3, color: INTERP.colors.token("ink") } } });
    const bare = { visible: false, fixedrange: false };
    const node = await INTERP.charts.draw(chart, traces, {
      height: big ? 460 : 260, margin: { l: 4, r: 4, t: 4, b: 4 }, xaxis: bare, yaxis: { ...bare, scaleanchor: "x" },
      dragmode: big ? "select" : "pan", hovermode: "closest", uirevision: sae.index + "map" + params.box,
    }, { scrollZoom: true });
    if (!node.on) return;
    node.drawnIds = ids;
    node.drawnLook = look;
    if (node.dataset.bound) return;
    node.dataset.bound = "1";
    node.on("plotly_click", (event) => INTERP.state.go({ view: "feature", sae: sae.index, feature: event.points[0].customdata }));
    node.on("plotly_selected", (event) => {
      if (!event || !event.range) return;
      const range = [...event.range.x, ...event.range.y].map((v) => v.toFixed(3));
      INTERP.state.set({ box: range.join(",") }, true);
    });
  }

  return { update, mapPanel, select };
})();
