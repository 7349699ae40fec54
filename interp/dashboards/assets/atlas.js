/* Draws each chart of the page when it comes near the window; its numbers stand beside it as text. */
"use strict";

(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent).figures;
  // plotly.js 4 offers to upload the chart unless told otherwise.
  const CONFIG = {
    displaylogo: false,
    displayModeBar: false,
    showSendToCloud: false,
    responsive: true,
    modeBarButtonsToRemove: ["sendChartToCloud"],
  };

  function draw(node) {
    const figure = figures[Number(node.dataset.figure)];
    const layout = { ...figure.layout, autosize: true, dragmode: false };
    window.Plotly.newPlot(node, figure.data, layout, CONFIG).then(
      () => (node.dataset.drawn = "1"),
      (error) => (node.textContent = "This chart could not be drawn: " + error.message),
    );
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  for (const node of document.querySelectorAll(".chart")) near.observe(node);
  // Paper has no scrolling: all charts first.
  window.addEventListener("beforeprint", () => {
    for (const node of document.querySelectorAll(".chart:not([data-drawn])")) draw(node);
  });
})();
