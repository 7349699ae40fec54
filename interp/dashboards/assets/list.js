/* The feature list: filter, sort, and a virtual scroll that only ever holds the visible rows. */
"use strict";

INTERP.list = (function () {
  const { el, number, percent } = INTERP;
  const { text: word } = INTERP.glossary;
  // A latent that fires on more than a tenth of all rows says little about any of them.
  const DENSE = 0.1;
  // Active on fewer rows than this, a latent's pictures are anecdotes.
  const FEW = 20;
  const memo = { key: "", ids: null };
  const haystacks = new WeakMap();

  const COLUMNS = [
    { key: "id", label: "Latent", title: word("latent"), value: (t, i) => i },
    { key: "preview", label: "Top images", title: "images with the largest activations" },
    {
      key: "density",
      label: "Density",
      hint: "log bar",
      title: word("density") + "; the bar is logarithmic: empty at 0.001 %, full at 100 %",
      value: (t, i) => t.density[i],
      show: percent,
    },
    {
      key: "max",
      label: "Max",
      title: "largest activation",
      value: (t, i) => t.max[i],
      show: number,
    },
    {
      key: "mean",
      label: "Mean",
      title: "mean activation where active",
      value: (t, i) => t.mean[i],
      show: number,
    },
    {
      key: "category",
      label: "Top category",
      title: word("top category"),
      value: (t, i) => (t.share ? t.share[i] : NaN),
    },
    {
      key: "entropy",
      label: "Entropy",
      title: word("entropy"),
      value: (t, i) => (t.entropy ? t.entropy[i] : NaN),
      show: (v) => INTERP.fixed(v, 2),
    },
  ];

  function categoryName(sae, table, id) {
    const index = table.category ? table.category[id] : -1;
    return index >= 0 ? sae.categories[index] : "";
  }

  function haystack(store) {
    if (!haystacks.has(store)) {
      const texts = new Map();
      store.generation.forEach((generation, index) => {
        const parts = ["caption", "prompt", "category", "image_id"].map(
          (name) => (store.columns[name] || [])[index] || "",
        );
        texts.set(generation, parts.join(" ").toLowerCase());
      });
      haystacks.set(store, texts);
    }
    return haystacks.get(store);
  }

  /* Which latents match every word: in the top category's name or in a top image's caption. */
  function matches(sae, table, store, query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const m = sae.n_latents;
    const wide = table.preview.shape[1];
    const found = new Uint8Array(m).fill(1);
    for (const word of words) {
      const hits = new Set();
      for (const [generation, text] of haystack(store))
        if (text.includes(word)) hits.add(generation);
      const named = sae.categories.map((name) => name.toLowerCase().includes(word));
      for (let i = 0; i < m; i++) {
        let hit = table.category && table.category[i] >= 0 && named[table.category[i]];
        for (let k = 0; k < wide && !hit; k++) hit = hits.has(table.preview[i * wide + k]);
        if (!hit) found[i] = 0;
      }
    }
    return found;
  }

  function inBox(table, box) {
    const parts = box.split(",").map(Number);
    if (parts.length !== 4 || parts.some(Number.isNaN) || !table.umap) return null;
    const [x0, x1, y0, y1] = parts;
    return (i) =>
      table.umap[2 * i] >= x0 &&
      table.umap[2 * i] <= x1 &&
      table.umap[2 * i + 1] >= y0 &&
      table.umap[2 * i + 1] <= y1;
  }

  function filtered(sae, table, store, params) {
    const exact = /^#?(\d+)$/.exec(params.q.trim());
    if (exact && Number(exact[1]) < sae.n_latents) return [Number(exact[1])];
    const text = params.q.trim() ? matches(sae, table, store, params.q) : null;
    const box = params.box ? inBox(table, params.box) : null;
    const category = params.cat === "" ? -1 : sae.categories.indexOf(params.cat);
    const ids = [];
    for (let i = 0; i < sae.n_latents; i++) {
      if (table.dead[i] && params.dead !== "1") continue;
      if (table.density[i] > DENSE && params.dense !== "1") continue;
      if (text && !text[i]) continue;
      if (box && !box(i)) continue;
      if (params.cat !== "" && table.category && table.category[i] !== category) continue;
      ids.push(i);
    }
    return ids;
  }

  /* Ids in the order of the present sort and filters; ties by lower id. */
  function order(sae, table, store, params) {
    const key = [
      sae.index,
      params.sort,
      params.desc,
      params.q,
      params.dead,
      params.dense,
      params.cat,
      params.box,
    ].join("\n");
    if (memo.key === key) return memo.ids;
    const column = COLUMNS.find((c) => c.key === params.sort && c.value) || COLUMNS[2];
    const sign = params.desc === "1" ? -1 : 1;
    const ids = filtered(sae, table, store, params);
    const values = new Float64Array(sae.n_latents);
    for (const id of ids) values[id] = column.value(table, id);
    const missing = (id) => Number.isNaN(values[id]);
    ids.sort((a, b) => {
      if (missing(a) || missing(b)) return missing(a) - missing(b) || a - b;
      return sign * (values[a] - values[b]) || a - b;
    });
    memo.key = key;
    memo.ids = ids;
    return ids;
  }

  function thumb(sae, store, generation) {
    const info = INTERP.generationInfo(store, generation);
    return el("img", {
      src: INTERP.imageUrl(sae.store.key, generation),
      alt: info.text,
      title: info.text,
      width: 40,
      height: 40,
      loading: "lazy",
      class: store.size[0] <= 64 ? "pixelated" : "",
    });
  }

  function thumbs(sae, table, store, id, count) {
    return Array.from(INTERP.row(table.preview, id).subarray(0, count))
      .filter((g) => g >= 0)
      .map((g) => thumb(sae, store, g));
  }

  /* Rows on which a latent is active. */
  const activeRows = (sae, table, id) => Math.round(table.density[id] * sae.n_rows);

  function badges(sae, table, id) {
    const badge = (name, look) =>
      el("span", { class: "badge" + look, text: name, title: word(name) });
    if (table.dead[id]) return badge("dead", " muted");
    if (table.density[id] > DENSE) return badge("dense", "");
    return activeRows(sae, table, id) < FEW ? badge("few", " muted") : null;
  }

  function rowNode(context, id, compact) {
    const { sae, table, store, current } = context;
    const href = INTERP.state.link({ view: "feature", sae: sae.index, feature: id });
    const attributes = {
      class: "row" + (id === current ? " current" : ""),
      href,
      role: "row",
      "data-id": id,
      "aria-current": id === current ? "true" : null,
    };
    const cell = (name, ...content) =>
      el("span", { class: "cell " + name, role: "cell" }, ...content);
    if (compact) {
      return el(
        "a",
        attributes,
        cell("id", String(id)),
        cell("preview", ...thumbs(sae, table, store, id, 3)),
        cell("density", percent(table.density[id]), badges(sae, table, id)),
      );
    }
    const category = categoryName(sae, table, id);
    const share = table.share ? table.share[id] : 0;
    return el(
      "a",
      attributes,
      cell("id", String(id), badges(sae, table, id)),
      cell("preview", ...thumbs(sae, table, store, id, 5)),
      cell(
        "density",
        el("span", { class: "meter", style: { width: meter(table.density[id]) } }),
        percent(table.density[id]),
      ),
      cell("max", number(table.max[id])),
      cell("mean", number(table.mean[id])),
      cell(
        "category",
        el("span", { class: "name", text: category, title: category }),
        category ? el("small", { text: Math.round(100 * share) + " %" }) : null,
      ),
      cell("entropy", table.entropy ? INTERP.fixed(table.entropy[id], 2) : "–"),
    );
  }

  /* Densities span decades: the little bar is logarithmic, empty at 1e-5 and full at 1. */
  function meter(density) {
    return density > 0
      ? Math.max(0, Math.min(100, 100 * (1 + Math.log10(density) / 5))) + "%"
      : "0";
  }

  function header(params) {
    return el(
      "div",
      { class: "row head", role: "row" },
      COLUMNS.map((column) => {
        if (!column.value)
          return el("span", {
            class: "cell " + column.key,
            role: "columnheader",
            title: column.title,
            text: column.label,
          });
        const active = params.sort === column.key;
        const sort = active ? (params.desc === "1" ? "descending" : "ascending") : "none";
        const toggle = () =>
          INTERP.state.set(
            { sort: column.key, desc: active && params.desc === "1" ? "0" : "1" },
            true,
          );
        const arrow = el("i", {
          class: "arrow",
          "aria-hidden": "true",
          text: active ? (params.desc === "1" ? "↓" : "↑") : "",
        });
        return el(
          "span",
          { class: "cell " + column.key, role: "columnheader", "aria-sort": sort },
          el(
            "button",
            { type: "button", title: column.title || "", "data-sort": column.key, onclick: toggle },
            column.label,
            arrow,
          ),
          column.hint ? el("small", { text: column.hint, title: column.title }) : null,
        );
      }),
    );
  }

  /* A scrolling list of the given ids. context: sae, table, store, current. */
  function create(context, ids, compact) {
    const height = compact ? 44 : 56;
    const space = el("div", {
      class: "space",
      role: "rowgroup",
      style: { height: ids.length * height + "px" },
    });
    const scroller = el("div", { class: "scroller" }, space);
    const root = el(
      "div",
      {
        class: "list" + (compact ? " compact" : "") + (context.table.category ? "" : " plain"),
        role: "table",
        "aria-label": "Features",
        "aria-rowcount": ids.length,
      },
      compact ? null : header(INTERP.state.current().params),
      scroller,
    );
    let first = -1;
    const render = () => {
      const start = Math.max(0, Math.floor(scroller.scrollTop / height) - 4);
      if (start === first) return;
      first = start;
      const end = Math.min(
        ids.length,
        start + Math.ceil((scroller.clientHeight || 800) / height) + 9,
      );
      const focused = space.contains(document.activeElement)
        ? document.activeElement.dataset.id
        : null;
      space.replaceChildren(
        ...ids.slice(start, end).map((id, k) => {
          const node = rowNode(context, id, compact);
          node.style.transform = "translateY(" + (start + k) * height + "px)";
          node.setAttribute("aria-rowindex", start + k + 1);
          return node;
        }),
      );
      if (focused !== null)
        space.querySelector('[data-id="' + focused + '"]')?.focus({ preventScroll: true });
    };
    scroller.addEventListener("scroll", render, { passive: true });
    const mark = (id) => {
      for (const node of space.children) {
        const current = Number(node.dataset.id) === id;
        node.classList.toggle("current", current);
        if (current) node.setAttribute("aria-current", "true");
        else node.removeAttribute("aria-current");
      }
    };
    root.reveal = (id) => {
      context.current = id;
      const at = ids.indexOf(id) * height;
      const end = scroller.scrollTop + scroller.clientHeight;
      if (at >= 0 && (at < scroller.scrollTop || at + height > end)) {
        scroller.scrollTop = Math.max(0, at - scroller.clientHeight / 3);
      }
      render();
      mark(id);
    };
    root.refresh = () => {
      first = -1;
      render();
    };
    return root;
  }

  return { order, create, categoryName, thumbs, badges, activeRows, DENSE, FEW };
})();
