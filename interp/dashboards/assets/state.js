/* The URL hash is the whole state: #/sae/0/feature/12?sort=density&desc=1&q=flag. Every view is a link. */
"use strict";

INTERP.state = (function () {
  const DEFAULTS = {
    sort: "density",
    desc: "1",
    q: "",
    dead: "0",
    dense: "1",
    cat: "",
    box: "",
    color: "category",
    map: "1",
    opacity: "0.75",
    cmap: "orchid",
    scale: "latent",
    threshold: "0",
    interp: "bilinear",
    size: "112",
    measure: "",
    by: "value",
    a: "",
    b: "",
    cell: "",
  };
  // What a link into another view carries along: the list's order and filters, and the overlay's look.
  const KEPT = [
    "sort",
    "desc",
    "q",
    "dead",
    "dense",
    "cat",
    "box",
    "map",
    "opacity",
    "cmap",
    "scale",
    "threshold",
    "interp",
    "size",
  ];

  function parse(hash) {
    const [path, query] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
    const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
    const params = { ...DEFAULTS };
    for (const [name, value] of new URLSearchParams(query || "")) {
      if (name in DEFAULTS) params[name] = value;
    }
    const state = { view: "overview", params };
    if (parts[0] === "sae") {
      state.view = parts[2] === "feature" ? "feature" : "browse";
      state.sae = Number(parts[1] || 0);
      if (state.view === "feature") state.feature = Number(parts[3]);
    } else if (parts[0] === "compare") {
      state.view = "compare";
      state.alignment = Number(parts[1] || 0);
    } else if (parts.length) {
      state.view = "unknown";
    }
    return state;
  }

  function format(state) {
    let path = "#/";
    if (state.view === "browse") path = "#/sae/" + state.sae;
    if (state.view === "feature") path = "#/sae/" + state.sae + "/feature/" + state.feature;
    if (state.view === "compare") path = "#/compare/" + state.alignment;
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(state.params || {})) {
      if (name in DEFAULTS && String(value) !== DEFAULTS[name]) query.set(name, value);
    }
    const text = query.toString();
    return text ? path + "?" + text : path;
  }

  const current = () => parse(location.hash);

  /* A link to another place that keeps the list's order and the overlay's look. */
  function link(place, extra) {
    const kept = {};
    const params = current().params;
    for (const name of KEPT) kept[name] = params[name];
    return format({ ...place, params: { ...kept, ...(extra || {}) } });
  }

  /* Change parameters of the present view; sliders replace, choices push a history entry. */
  function set(changes, push) {
    const state = current();
    Object.assign(state.params, changes);
    const hash = format(state);
    if (hash === location.hash) return;
    if (push) history.pushState(null, "", hash);
    else history.replaceState(null, "", hash);
    INTERP.changed(Object.keys(changes));
  }

  function go(place, extra) {
    location.hash = link(place, extra);
  }

  return { DEFAULTS, parse, format, current, link, set, go };
})();
