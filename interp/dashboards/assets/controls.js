/* The small parts that every page uses: fields, tables, figures with a label. */
"use strict";

INTERP.controls = (function () {
  const { el } = INTERP;

  function stat(label, value, title) {
    return el(
      "div",
      { class: "stat", title: title || "" },
      el("dt", { text: label }),
      el("dd", { text: value }),
    );
  }

  function debounce(action, wait) {
    let timer = 0;
    return (...values) => {
      clearTimeout(timer);
      timer = setTimeout(() => action(...values), wait);
    };
  }

  function toggle(label, name, params, title) {
    const input = el("input", {
      type: "checkbox",
      name,
      onchange: (event) => INTERP.state.set({ [name]: event.target.checked ? "1" : "0" }, true),
    });
    input.checked = params[name] === "1";
    return el("label", { class: "check", title }, input, label);
  }

  function select(label, name, options, value) {
    const node = el(
      "select",
      {
        name,
        "aria-label": label,
        onchange: (event) => INTERP.state.set({ [name]: event.target.value }, true),
      },
      options.map(([key, text]) => el("option", { value: key, text, selected: key === value })),
    );
    return el("label", { class: "field" }, el("span", { text: label }), node);
  }

  function slider(label, name, max, params, show) {
    const value = el("output", { text: show(params[name]) });
    const input = el("input", {
      type: "range",
      name,
      min: 0,
      max,
      step: 0.05,
      "aria-label": label,
      oninput: (event) => {
        value.textContent = show(event.target.value);
        INTERP.state.set({ [name]: String(Number(event.target.value)) });
      },
    });
    input.value = params[name];
    return el("label", { class: "field" }, el("span", { text: label }), input, value);
  }

  function segmented(label, name, options, params) {
    return el(
      "div",
      { class: "segmented", role: "radiogroup", "aria-label": label },
      options.map(([key, text]) => {
        const choose = () => {
          INTERP.state.set({ [name]: key });
          document
            .querySelectorAll('[data-choice="' + name + '"]')
            .forEach((node) => node.setAttribute("aria-checked", String(node.value === key)));
        };
        return el("button", {
          type: "button",
          role: "radio",
          "data-choice": name,
          value: key,
          "aria-checked": String(params[name] === key),
          onclick: choose,
          text,
        });
      }),
    );
  }

  // Columns of the class "minor" leave on narrow pages; what still does not fit can be scrolled to.
  function table(headings, rows, label) {
    const scroll = el(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": label },
      el(
        "table",
        { class: "data" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            headings.map(([text, title, numeric, minor]) =>
              el("th", {
                scope: "col",
                text,
                title: title || "",
                class: (numeric ? "num" : "") + (minor ? " minor" : ""),
              }),
            ),
          ),
        ),
        el("tbody", {}, rows),
      ),
    );
    const box = el("div", { class: "table-box" }, scroll);
    const cue = () => {
      const left = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft;
      box.classList.toggle("more", left > 2);
    };
    scroll.addEventListener("scroll", cue, { passive: true });
    new ResizeObserver(cue).observe(scroll);
    return box;
  }

  function facts(entries) {
    return el(
      "dl",
      { class: "facts" },
      entries
        .filter((entry) => entry[1] !== null && entry[1] !== undefined && entry[1] !== "")
        .map(([name, value]) =>
          el(
            "div",
            {},
            el("dt", { text: name }),
            el("dd", { text: typeof value === "object" ? JSON.stringify(value) : String(value) }),
          ),
        ),
    );
  }

  return { stat, debounce, toggle, select, slider, segmented, table, facts };
})();
