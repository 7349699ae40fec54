/* Starts the page: the bar, the routes, the keyboard, the theme. */
"use strict";

(function () {
  const { el } = INTERP;
  const main = document.getElementById("main");
  const meta = INTERP.meta();
  const THEMES = ["auto", "light", "dark"];
  let drawn = null;

  meta.saes.forEach((sae, index) => {
    sae.index = index;
  });

  function message(text) {
    main.replaceChildren(
      el(
        "div",
        { class: "message", role: "alert" },
        el("p", { text }),
        el("a", { class: "button", href: "#/" }, "Go to the overview"),
      ),
    );
  }

  function bar(state) {
    const tab = (text, href, active) =>
      el(
        "a",
        { href, class: active ? "active" : "", "aria-current": active ? "page" : null },
        text,
      );
    const onSae = state.view === "browse" || state.view === "feature";
    const choose = el(
      "select",
      {
        "aria-label": "SAE",
        onchange: (event) => {
          location.hash = "#/sae/" + event.target.value;
        },
      },
      meta.saes.map((sae) =>
        el("option", {
          value: sae.index,
          text: sae.model + " · " + sae.point.name,
          selected: onSae && sae.index === state.sae,
        }),
      ),
    );
    document.getElementById("bar").replaceChildren(
      el("a", { class: "brand", href: "#/" }, "interp"),
      el(
        "nav",
        { "aria-label": "Pages" },
        tab("Overview", "#/", state.view === "overview"),
        meta.saes.length
          ? tab(
              "Features",
              INTERP.state.link({ view: "browse", sae: onSae ? state.sae : 0 }),
              onSae,
            )
          : null,
        meta.alignments.length ? tab("Comparison", "#/compare/0", state.view === "compare") : null,
      ),
      onSae && meta.saes.length > 1 ? choose : el("span", { class: "grow" }),
      el(
        "button",
        {
          type: "button",
          class: "icon",
          title: "Keys and words (?)",
          "aria-label": "Keyboard shortcuts and glossary",
          onclick: help,
        },
        "?",
      ),
      el(
        "button",
        {
          type: "button",
          class: "button",
          id: "theme",
          title: "Color theme",
          onclick: nextTheme,
        },
        "◐ " + theme(),
      ),
    );
  }

  function theme() {
    try {
      return THEMES.includes(localStorage.interpTheme) ? localStorage.interpTheme : "auto";
    } catch {
      return "auto";
    }
  }

  function applyTheme(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
  }

  function nextTheme() {
    const name = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
    try {
      localStorage.interpTheme = name;
    } catch {
      /* private windows keep no storage; the theme holds until reload */
    }
    applyTheme(name);
    redraw();
  }

  function help() {
    const keys = [
      ["j  or  →", "next feature"],
      ["k  or  ←", "previous feature"],
      ["/", "search"],
      ["o", "overlay on or off"],
      ["Esc", "close, or back to the table"],
    ];
    const dialog = el(
      "dialog",
      { class: "help", "aria-label": "Keyboard shortcuts and glossary", onclose: () => dialog.remove() },
      el(
        "div",
        { class: "panel-head" },
        el("h2", { text: "Keyboard" }),
        el("button", {
          type: "button",
          class: "icon",
          "aria-label": "Close",
          onclick: () => dialog.close(),
          text: "✕",
        }),
      ),
      INTERP.controls.facts(keys),
      el("h2", { text: "Words" }),
      INTERP.glossary.list(),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  async function saeData(state) {
    const sae = meta.saes[state.sae];
    if (!sae)
      throw new Error(
        "There is no SAE " + state.sae + "; this dashboard has " + meta.saes.length + ".",
      );
    const [table, store] = await Promise.all([
      INTERP.load("sae" + sae.index + "/table"),
      INTERP.load("store/" + sae.store.key),
    ]);
    return [sae, table, store];
  }

  async function show() {
    const state = INTERP.state.current();
    bar(state);
    const place = INTERP.state.format({ ...state, params: {} });
    if (place !== drawn && state.view !== "feature") window.scrollTo(0, 0);
    drawn = place;
    delete document.body.dataset.shown;
    delete document.body.dataset.view;
    try {
      if (state.view === "overview") INTERP.overview.render(main, meta);
      else if (state.view === "compare") {
        if (!meta.alignments[state.alignment])
          throw new Error("There is no comparison " + state.alignment + " in this dashboard.");
        await INTERP.compare.render(main, meta, state);
      } else if (state.view === "browse")
        INTERP.browse.update(main, ...(await saeData(state)), state);
      else if (state.view === "feature")
        await INTERP.feature.render(main, ...(await saeData(state)), state);
      else message("This address names no page of the dashboard.");
    } catch (error) {
      message(error.message);
    }
    document.title = titleOf(state);
    document.body.dataset.view = state.view;
    INTERP.charts.sweep();
  }

  function titleOf(state) {
    const sae = meta.saes[state.sae];
    if (state.view === "feature" && sae)
      return "Latent " + state.feature + " · " + sae.point.name + " · " + meta.title;
    return state.view === "browse" && sae ? sae.point.name + " · " + meta.title : meta.title;
  }

  const LOOK = new Set(["map", "opacity", "cmap", "scale", "threshold", "interp", "size"]);

  /* Overlay controls only repaint canvases; everything else draws the view again. */
  INTERP.changed = (names) => {
    if (INTERP.state.current().view === "feature" && names.every((name) => LOOK.has(name)))
      INTERP.feature.drawOverlays();
    else show();
  };

  function redraw() {
    const at = window.scrollY;
    show().then(() => window.scrollTo(0, at));
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]"))
      return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && typing) return event.target.blur();
    if (typing) return;
    const state = INTERP.state.current();
    const onFeature = state.view === "feature";
    if (event.key === "/" && document.getElementById("search"))
      document.getElementById("search").focus();
    else if (event.key === "?") help();
    else if (onFeature && (event.key === "j" || event.key === "ArrowRight")) INTERP.feature.move(1);
    else if (onFeature && (event.key === "k" || event.key === "ArrowLeft")) INTERP.feature.move(-1);
    else if (onFeature && event.key === "o")
      INTERP.state.set({ map: state.params.map === "1" ? "0" : "1" }, false);
    else if (onFeature && event.key === "Escape")
      INTERP.state.go({ view: "browse", sae: state.sae });
    else return;
    event.preventDefault();
  }

  function resized() {
    const view = INTERP.state.current().view;
    if (view === "compare") redraw();
    if (view === "feature") INTERP.feature.drawOverlays();
  }

  applyTheme(theme());
  window.addEventListener("hashchange", show);
  document.addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let resizing = 0;
  window.addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(resized, 200);
  });
  show();
})();
