/* Plotly in the page's theme. It loads after the first pictures, never before them. */
"use strict";

INTERP.charts = (function () {
  // plotly.js 4 offers to upload the chart unless told otherwise: see `showSendToCloud`.
  const CONFIG = {
    displaylogo: false, showSendToCloud: false, responsive: true, displayModeBar: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
  };
  let loading = null;

  function plotly() {
    if (window.Plotly) return Promise.resolve(window.Plotly);
    if (!loading) {
      loading = new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = "bundle/assets/plotly.min.js";
        script.onload = () => resolve(window.Plotly);
        script.onerror = () => reject(new Error("bundle/assets/plotly.min.js is missing"));
        document.head.append(script);
      });
    }
    return loading;
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
      title: { text: title, standoff: 8, font: { size: 11.5 } }, gridcolor: line, linecolor: line, zeroline: false,
      ticks: "outside", ticklen: 3, tickcolor: line, automargin: true, ...extra,
    };
  }

  function layout(extra) {
    const ink = INTERP.colors.token("ink-2");
    return {
      font: { family: getComputedStyle(document.body).fontFamily, size: 11.5, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 200,
      margin: { l: 46, r: 10, t: 8, b: 38 }, showlegend: false, bargap: 0.06, dragmode: false,
      hoverlabel: {
        bgcolor: INTERP.colors.token("raised"), bordercolor: INTERP.colors.token("line-strong"),
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: INTERP.colors.token("ink") },
      },
      ...extra,
    };
  }

  async function draw(node, traces, extraLayout, extraConfig) {
    const library = await plotly();
    if (!node.isConnected) return node;
    await library.react(node, traces, layout(extraLayout), { ...CONFIG, ...(extraConfig || {}) });
    return node;
  }

  return { plotly, draw, axis, escape, short };
})();
