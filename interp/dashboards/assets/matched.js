/* Matched features of two layers: pairs with their scores, both features on the same pictures. */
"use strict";

INTERP.matched = (function () {
  const { el, number, fixed, pValue } = INTERP;
  const FIRST = 6;
  const METHODS = {
    mutual: "each other's best match",
    best: "the best match of each feature",
    hungarian: "one-to-one matches",
    soft: "soft matches",
  };

  function at(side, layer) {
    const same = side.model === layer.model || layer.model.endsWith(":" + side.model);
    const call = side.call === null || side.call === layer.call;
    return same && call && side.point === layer.point && !layer.reference;
  }

  /* The match of a pair of layers, in either order, or null. */
  function find(alignment, layers) {
    if (!layers || layers[0] === layers[1]) return null;
    const fits = (match, a, b) => at(match.first, a) && at(match.second, b);
    return (
      INTERP.meta().matches.find(
        (match) =>
          match.alignments.includes(alignment) &&
          (fits(match, ...layers) || fits(match, layers[1], layers[0])),
      ) || null
    );
  }

  const sideName = (side) => side.model + " " + side.point;

  /* Links to the cells that have matches: the way there without a mouse. */
  function cells(data, state, rows, columns, lookup) {
    const seen = new Map();
    for (const i of rows)
      for (const j of columns) {
        const match = i !== j && find(state.alignment, [data.layers[i], data.layers[j]]);
        const cell = match && lookup(i, j);
        if (!cell) continue;
        const known = seen.get(match.index);
        if (!known || cell.value > known.value)
          seen.set(match.index, { match, i, j, value: cell.value });
      }
    if (!seen.size) return null;
    return el(
      "p",
      { class: "matched-cells" },
      el("i", { class: "mark", "aria-hidden": "true" }),
      el("span", { text: "Cells with matched features:" }),
      [...seen.values()].map(({ match, i, j }) =>
        el("a", {
          class: "button",
          href: INTERP.state.format({
            view: "compare",
            alignment: state.alignment,
            params: { ...state.params, cell: i + "," + j },
          }),
          text: sideName(match.first) + " – " + sideName(match.second),
        }),
      ),
    );
  }

  function summary(one, match, layers) {
    const bounds =
      one.low === null ? "" : " [" + fixed(one.low, 2) + ", " + fixed(one.high, 2) + "]";
    const lines = [
      number(match.first.n_counted) + " and " + number(match.second.n_counted) +
        " features fire often enough. " + number(one.n_pairs) + " are " + METHODS[one.method] +
        " on one half of the images (" + number(one.n_found) + "); on the other half (" +
        number(one.n_scored) + ") their mean correlation is " + fixed(one.mean, 2) + bounds + ".",
    ];
    if (one.threshold !== null)
      lines.push(
        number(one.n_shared) + " lie above " + fixed(one.threshold, 2) + ", which 5 % of " +
          number(one.n_permutations) + " whole matchings with permuted images reach anywhere (their mean: " +
          fixed(one.null_mean, 2) + ").",
      );
    for (const level of one.levels)
      lines.push(
        "Beside it " + level.name + ": mean " + fixed(level.mean, 2) + ", difference " +
          fixed(level.difference, 2) +
          (level.low === null ? "" : " [" + fixed(level.low, 2) + ", " + fixed(level.high, 2) + "]") + ".",
      );
    const pooled = [match.first, match.second].some((side) => side.call === null);
    if (pooled && layers.some((layer) => layer.call !== null && layer.call !== undefined))
      lines.push("All noise levels are taken together.");
    if (!one.levels.length)
      lines.push("No untrained twins were matched, so what wiring alone shares is not known here.");
    return lines.join(" ");
  }

  function tile(context, k, e, end) {
    const { one, store, key } = context;
    const generation = INTERP.row(one.generation, k)[e];
    const value = INTERP.row(one["value_" + end], k)[e];
    const info = INTERP.generationInfo(store, generation);
    const maps = one["maps_" + end];
    // The first half of the pictures are the first feature's largest.
    const turn = e === Math.ceil(one.generation.shape[1] / 2);
    return el(
      "figure",
      { class: "tile" + (turn ? " turn" : "") + (value > 0 ? "" : " low") },
      el(
        "div",
        {
          class: "picture",
          title: info.text,
          style: { aspectRatio: store.size[1] + " / " + store.size[0] },
        },
        el("img", {
          src: INTERP.imageUrl(key, generation),
          alt: info.text + "; activation " + number(value, 2),
          class: store.size[0] <= 64 ? "pixelated" : "",
          decoding: "async",
          loading: "lazy",
        }),
        maps ? el("canvas", { "data-pair": k, "data-image": e, "data-end": end, "aria-hidden": "true" }) : null,
      ),
      el("figcaption", { text: number(value, 2) }),
    );
  }

  function side(context, k, end) {
    const { one, match } = context;
    const latent = one["latent_" + end][k];
    const where = match[end];
    const name = "Latent " + latent;
    const link =
      where.sae === null
        ? el("b", { text: name })
        : el("a", { href: "#/sae/" + where.sae + "/feature/" + latent, text: name });
    const count = [...INTERP.row(one.generation, k)].filter((generation) => generation >= 0).length;
    return [
      el("div", { class: "side" }, link, el("span", { text: sideName(where) })),
      el(
        "div",
        { class: "tiles" },
        Array.from({ length: count }, (_, e) => tile(context, k, e, end)),
      ),
    ];
  }

  function pairCard(context, k) {
    const { one } = context;
    const known = (name) => (Number.isNaN(one[name][k]) ? null : one[name][k]);
    const shown = (name, digits) => (known(name) === null ? null : fixed(known(name), digits));
    const ceilings = [shown("ceiling_first", 2), shown("ceiling_second", 2)].filter(Boolean);
    const facts = [
      ["universality", shown("universality", 2)],
      ["p (max-T)", known("p") === null ? null : pValue(known("p"))],
      ["where found", shown("found", 2)],
      ["second seed", ceilings.join(", ") || null],
      ["decoder cosine", shown("cosine", 2)],
    ];
    return el(
      "li",
      { class: "match" },
      el(
        "div",
        {},
        el("h3", { text: one.latent_first[k] + " – " + one.latent_second[k] }),
        el("p", { class: "big" }, fixed(one.r[k], 2), el("small", { text: "correlation" })),
        INTERP.controls.facts(facts.filter((fact) => fact[1] !== null)),
      ),
      el("div", { class: "sides" }, side(context, k, "first"), side(context, k, "second")),
    );
  }

  function draw(root, one, params) {
    const look = INTERP.overlay.options({ ...params, map: "1" });
    for (const canvas of root.querySelectorAll("canvas[data-pair]")) {
      const maps = one["maps_" + canvas.dataset.end];
      const [, , h, w] = maps.shape;
      const all = INTERP.row(maps, Number(canvas.dataset.pair));
      const e = Number(canvas.dataset.image);
      INTERP.overlay.draw(canvas, all.subarray(e * h * w, (e + 1) * h * w), h, w, look);
    }
  }

  /* The panel of a pair of layers that have a match; null otherwise. */
  async function panel(data, state, pair) {
    const layers = (pair || []).map((i) => data.layers[i]);
    const match = pair && find(state.alignment, layers);
    if (!match) return null;
    const one = await INTERP.load("matches" + match.index);
    const store = match.store ? await INTERP.load("store/" + match.store) : null;
    const context = { one, match, store, key: match.store };
    const count = one.generation.shape[0];
    const list = el("ol", { class: "matches" });
    const root = el(
      "section",
      { class: "panel matched", id: "matched", tabindex: "-1", "aria-label": "Matched features" },
      el("div", { class: "panel-head" }, el("h2", { text: "Matched features of these layers" })),
      el("p", { class: "note", text: summary(one, match, layers) }),
      list,
    );
    const add = (from, upto) => {
      for (let k = from; k < upto; k++) list.append(pairCard(context, k));
      draw(root, one, state.params);
    };
    add(0, Math.min(FIRST, count));
    if (count > FIRST) {
      const more = el("button", {
        type: "button",
        class: "button more",
        text: "Show all " + count + " strongest pairs",
        onclick: () => {
          more.remove();
          add(FIRST, count);
          list.children[FIRST].querySelector("a, b").focus();
        },
      });
      root.append(more);
    }
    root.append(
      el("p", {
        class: "note",
        text:
          "Both rows show the same pictures of the half on which matches are scored: left the largest of the first feature, " +
          "right those of the second. Below each its activation, the " +
          (one.pooling === "max" ? "maximum" : "mean") +
          " over the picture. " +
          one.note,
      }),
    );
    return root;
  }

  return { find, cells, panel };
})();
