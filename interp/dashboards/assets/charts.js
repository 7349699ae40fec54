/* Plotly in the page's theme. It loads after the first pictures, never before them. */
"use strict";

INTERP.charts = (function () {
  // plotly.js 4 offers to upload the chart unless told otherwise: see `showSendToCloud`.
  const CONFIG = {
    displaylogo: false,
    showSendToCloud: false,
    responsive: true,
    displayModeBar: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
  };
  // Pictures come first; a slow disk must not keep the charts away for ever.
  const PATIENCE = 1500;
  const drawn = new Set();
  const wishes = new Map();
  let drawing = null;
  let loading = null;

  function script(resolve, reject) {
    const node = document.createElement("script");
    node.src = "bundle/assets/plotly.min.js";
    node.onload = () => resolve(window.Plotly);
    node.onerror = () => reject(new Error("bundle/assets/plotly.min.js is missing"));
    document.head.append(node);
  }

  function painted() {
    return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
  }

  /* Resolves once the pictures of the page are decoded and painted: they come before any chart. */
  async function pictures() {
    await painted();
    const images = [...document.querySelectorAll(".gallery img, .highlights img")];
    const decoded = images.map((image) => image.decode().catch(() => null));
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE));
    await Promise.race([Promise.all(decoded), patience]);
    await painted();
  }

  /* Draw charts one after another, each in a task of its own; a newer wish for a node replaces
     the older. */
  function later(node, action) {
    wishes.delete(node);
    wishes.set(node, action);
    if (!drawing) drawing = drawAll().finally(() => (drawing = null));
  }

  async function drawAll() {
    while (wishes.size) {
      await pictures();
      const [node, action] = wishes.entries().next().value;
      wishes.delete(node);
      if (node.isConnected) await action().catch((error) => (node.textContent = error.message));
    }
  }

  function plotly() {
    if (window.Plotly) return Promise.resolve(window.Plotly);
    if (!loading) loading = new Promise(script);
    return loading;
  }

  /* Charts that left the page give their memory and their graphics contexts back. */
  function sweep() {
    for (const node of drawn) {
      if (node.isConnected) continue;
      window.Plotly.purge(node);
      drawn.delete(node);
    }
  }

  /* The chart's node of that name on the page, or a new one: drawing over an old chart is cheaper. */
  function place(key, label) {
    const old = document.querySelector('.chart[data-key="' + key + '"]');
    const node = old || document.createElement("div");
    node.className = node.className || "chart";
    node.dataset.key = key;
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", label);
    return node;
  }

  /* Plotly reads a few HTML tags in labels; names from data must not become markup. */
  function escape(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function short(text, length) {
    const value = String(text);
    return escape(value.length > length ? value.slice(0, length - 1) + "…" : value);
  }

  function axis(title, extra) {
    const line = INTERP.colors.token("line");
    return {
      title: { text: title, standoff: 8, font: { size: 11.5 } },
      gridcolor: line,
      linecolor: line,
      zeroline: false,
      ticks: "outside",
      ticklen: 3,
      tickcolor: line,
      automargin: true,
      // "800µ" is not a unit anyone reads.
      exponentformat: "power",
      ...extra,
    };
  }

  const MOST_TICKS = 7;

  const tickLabel = (value) =>
    value >= 1e-3 && value < 1e5
      ? String(Number(value.toPrecision(2)))
      : INTERP.number(value).replace(/\.0e/, "e");

  /* Ticks of a logarithmic axis from 10^low to 10^high: decades; 1, 2, 5 or all digits where the
     axis is shorter; the two ends where even those are too few. Never fewer than two labels. */
  function logTicks(low, high) {
    const decades = [];
    for (let d = Math.floor(low); d <= Math.ceil(high); d++) decades.push(d);
    const step = Math.max(1, Math.ceil((high - low) / MOST_TICKS));
    const shown = (digits) =>
      decades
        .flatMap((d) => digits.map((digit) => Number(digit + "e" + d)))
        .filter((v) => Math.log10(v) >= low - 1e-9 && Math.log10(v) <= high + 1e-9);
    const tries = [
      shown([1]).filter((v) => Math.round(Math.log10(v)) % step === 0),
      shown([1, 2, 5]),
      shown([1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ];
    const tickvals = tries.find((values) => values.length >= 3) ||
      tries.find((values) => values.length >= 2) || [10 ** low, 10 ** high];
    return { tickvals, ticktext: tickvals.map(tickLabel) };
  }

  function layout(extra) {
    const ink = INTERP.colors.token("ink-2");
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 11.5, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      height: 200,
      margin: { l: 46, r: 10, t: 8, b: 38 },
      showlegend: false,
      bargap: 0.06,
      dragmode: false,
      hoverlabel: {
        bgcolor: INTERP.colors.token("raised"),
        bordercolor: INTERP.colors.token("line-strong"),
        font: {
          family: getComputedStyle(document.body).fontFamily,
          size: 12,
          color: INTERP.colors.token("ink"),
        },
      },
      ...extra,
    };
  }

  async function draw(node, traces, extraLayout, extraConfig) {
    const library = await plotly();
    if (!node.isConnected) return node;
    drawn.add(node);
    await library.react(node, traces, layout(extraLayout), { ...CONFIG, ...(extraConfig || {}) });
    return node;
  }

  return { draw, later, place, sweep, axis, logTicks, escape, short };
})();
