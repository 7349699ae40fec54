/* The layer-by-layer matrix on a canvas, with hover, click and keyboard. */
"use strict";

INTERP.matrix = (function () {
  const { el } = INTERP;
  const MIN_CELL = 11;
  const MAX_CELL = 34;

  function layerLabel(layer, withModel) {
    const point = layer.point
      .replace(/(down|up)_blocks\./g, "$1.")
      .replace("resnets.", "res.")
      .replace("attentions.", "att.")
      .replace("transformer_blocks.", "tb.");
    const level =
      layer.log_snr === null || layer.log_snr === undefined
        ? ""
        : " @" + INTERP.fixed(layer.log_snr, 0);
    return (
      (withModel ? layer.model + " " : "") +
      (point.length > 26 ? "…" + point.slice(-25) : point) +
      level
    );
  }

  /* Where model changes along an axis: group separators and headings. */
  function groups(layers, ids) {
    const out = [];
    ids.forEach((id, at) => {
      const name = layers[id].model;
      const last = out[out.length - 1];
      if (last && last.name === name) last.end = at + 1;
      else out.push({ name, start: at, end: at + 1 });
    });
    return out;
  }

  /* Room to the right, so that the name of a last group of few columns can run on. */
  function lastHeading(context, layers, columns) {
    const last = groups(layers, columns).pop();
    const few = last && last.end - last.start < 4;
    return few ? Math.max(20, context.measureText(last.name).width + 10) : 20;
  }

  /* The text, cut with an ellipsis where it is wider than `most` pixels: never squeezed. */
  function cut(context, text, most) {
    if (context.measureText(text).width <= most) return text;
    let length = text.length;
    while (length > 1 && context.measureText(text.slice(0, length) + "…").width > most) length--;
    return text.slice(0, length) + "…";
  }

  function geometry(context, layers, rows, columns, width) {
    context.font = "11px " + getComputedStyle(document.body).fontFamily;
    const widest = (ids) =>
      Math.min(
        190,
        Math.max(60, ...ids.map((id) => context.measureText(layerLabel(layers[id])).width)),
      );
    const left = widest(rows) + 30;
    const top = widest(columns) + 34;
    const margin = lastHeading(context, layers, columns);
    const cell = Math.max(
      MIN_CELL,
      Math.min(MAX_CELL, Math.floor((width - left - margin) / columns.length)),
    );
    return {
      left,
      top,
      cell,
      width: left + cell * columns.length + margin,
      height: top + cell * rows.length + 8,
    };
  }

  /* spec: layers, rows, columns, lookup(i, j) -> cell or null, color(cell) -> css, selected [i, j],
     marked(i, j) -> whether the cell opens more than its numbers. */
  function paint(canvas, spec, cursor) {
    const ratio = window.devicePixelRatio || 1;
    const context = canvas.getContext("2d");
    const shape = geometry(context, spec.layers, spec.rows, spec.columns, spec.width);
    canvas.width = shape.width * ratio;
    canvas.height = shape.height * ratio;
    canvas.style.width = shape.width + "px";
    canvas.style.height = shape.height + "px";
    context.scale(ratio, ratio);
    const gap = shape.cell > 15 ? 1.5 : 0.75;
    spec.rows.forEach((i, r) =>
      spec.columns.forEach((j, c) => {
        const cell = spec.lookup(i, j);
        context.fillStyle = cell ? spec.color(cell) : spec.tokens.empty;
        context.fillRect(
          shape.left + c * shape.cell,
          shape.top + r * shape.cell,
          shape.cell - gap,
          shape.cell - gap,
        );
        if (cell && spec.marked && spec.marked(i, j)) corner(context, spec, shape, r, c, gap);
      }),
    );
    labels(context, spec, shape);
    outline(context, spec, shape, spec.selected, 2.5);
    if (cursor) outline(context, spec, shape, [spec.rows[cursor[0]], spec.columns[cursor[1]]], 1.5);
    return shape;
  }

  /* A dark corner with a light edge, seen on every color: this cell opens more. */
  function corner(context, spec, shape, r, c, gap) {
    const right = shape.left + (c + 1) * shape.cell - gap;
    const top = shape.top + r * shape.cell;
    const side = Math.max(5, 0.42 * shape.cell);
    context.beginPath();
    context.moveTo(right - side, top);
    context.lineTo(right, top);
    context.lineTo(right, top + side);
    context.closePath();
    context.fillStyle = "#101418";
    context.fill();
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(right - side, top);
    context.lineTo(right, top + side);
    context.stroke();
  }

  function outline(context, spec, shape, pair, width) {
    if (!pair) return;
    const r = spec.rows.indexOf(pair[0]);
    const c = spec.columns.indexOf(pair[1]);
    if (r < 0 || c < 0) return;
    context.strokeStyle = spec.tokens.ink;
    context.lineWidth = width;
    context.strokeRect(
      shape.left + c * shape.cell - 1,
      shape.top + r * shape.cell - 1,
      shape.cell + 0.5,
      shape.cell + 0.5,
    );
  }

  function labels(context, spec, shape) {
    const family = getComputedStyle(document.body).fontFamily;
    const size = Math.max(8.5, Math.min(11, shape.cell - 2));
    context.textBaseline = "middle";
    context.fillStyle = spec.tokens.text;
    context.font = size + "px " + family;
    spec.rows.forEach((i, r) => {
      context.textAlign = "right";
      context.fillText(
        layerLabel(spec.layers[i]),
        shape.left - 8,
        shape.top + (r + 0.5) * shape.cell,
        shape.left - 30,
      );
    });
    spec.columns.forEach((j, c) =>
      rotated(
        context,
        layerLabel(spec.layers[j]),
        shape.left + (c + 0.5) * shape.cell,
        shape.top - 8,
        "left",
        shape.top - 34,
      ),
    );
    context.font = "600 11px " + family;
    context.fillStyle = spec.tokens.ink;
    context.strokeStyle = spec.tokens.line;
    context.lineWidth = 1;
    for (const group of groups(spec.layers, spec.rows)) {
      const span = (group.end - group.start) * shape.cell;
      const middle = shape.top + group.start * shape.cell + span / 2;
      if (context.measureText(group.name).width <= span - 4)
        rotated(context, group.name, 9, middle, "center", span - 4);
      else beside(context, spec, shape, group, middle);
      if (group.start)
        line(context, 2, shape.top + group.start * shape.cell - 1, shape.width - 8, null);
    }
    for (const group of groups(spec.layers, spec.columns)) {
      const span = (group.end - group.start) * shape.cell;
      const from = shape.left + group.start * shape.cell;
      const room = group.end === spec.columns.length ? shape.width - from : span;
      const fits = context.measureText(group.name).width <= span - 4;
      context.textAlign = fits ? "center" : "left";
      context.fillText(
        cut(context, group.name, fits ? span : room - 6),
        fits ? from + span / 2 : from + 3,
        9,
      );
      if (group.start)
        line(context, shape.left + group.start * shape.cell - 1, 2, null, shape.height - 8);
    }
  }

  /* The name of a group of few rows lies flat, before the labels of its rows. */
  function beside(context, spec, shape, group, middle) {
    const ids = spec.rows.slice(group.start, group.end);
    const widest = Math.max(
      ...ids.map((i) => context.measureText(layerLabel(spec.layers[i])).width),
    );
    context.textAlign = "left";
    context.fillText(cut(context, group.name, shape.left - widest - 22), 3, middle);
  }

  function line(context, x, y, toX, toY) {
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX === null ? x : toX, toY === null ? y : toY);
    context.stroke();
  }

  function rotated(context, text, x, y, align, most) {
    context.save();
    context.translate(x, y);
    context.rotate(-Math.PI / 2);
    context.textAlign = align;
    context.fillText(text, 0, 0, Math.max(most, 20));
    context.restore();
  }

  /* spec also holds: describe(i, j, cell) -> nodes for the tooltip, choose(i, j). */
  function create(spec) {
    const canvas = el("canvas", {
      class: "matrix",
      tabindex: "0",
      role: "img",
      "aria-label":
        "Matrix of " +
        spec.rows.length +
        " by " +
        spec.columns.length +
        " layers; arrow keys move, Enter opens a pair",
    });
    const tip = el("div", { class: "tip", role: "status", hidden: true });
    const root = el(
      "div",
      { class: "matrix-box" },
      el("div", { class: "matrix-scroll" }, canvas),
      tip,
    );
    let shape = null;
    let cursor = null;
    root.paint = () => {
      spec.width = root.clientWidth || 800;
      shape = paint(canvas, spec, cursor);
      root.dataset.geometry = JSON.stringify(shape);
    };
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const c = Math.floor((event.clientX - box.left - shape.left) / shape.cell);
      const r = Math.floor((event.clientY - box.top - shape.top) / shape.cell);
      return r >= 0 && c >= 0 && r < spec.rows.length && c < spec.columns.length ? [r, c] : null;
    };
    const show = (position) => {
      cursor = position;
      root.paint();
      const pair = position && [spec.rows[position[0]], spec.columns[position[1]]];
      const cell = pair && spec.lookup(...pair);
      tip.hidden = !cell;
      if (!cell) return;
      tip.replaceChildren(...spec.describe(...pair, cell));
      const scroll = canvas.parentElement.scrollLeft;
      const x = shape.left + (position[1] + 1) * shape.cell - scroll + 10;
      tip.style.left = (x + 270 > root.clientWidth ? Math.max(0, x - 290 - shape.cell) : x) + "px";
      tip.style.top = shape.top + position[0] * shape.cell + "px";
    };
    const same = (a, b) => (a && b ? a[0] === b[0] && a[1] === b[1] : a === b);
    canvas.addEventListener("mousemove", (event) => {
      const position = at(event);
      if (!same(position, cursor)) show(position);
    });
    canvas.addEventListener("mouseleave", () => show(null));
    canvas.addEventListener("blur", () => show(null));
    const choose = (position) => {
      if (position && spec.lookup(spec.rows[position[0]], spec.columns[position[1]]))
        spec.choose(spec.rows[position[0]], spec.columns[position[1]]);
    };
    canvas.addEventListener("click", (event) => choose(at(event)));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[
        event.key
      ];
      if (event.key === "Enter") choose(cursor);
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const [r, c] = cursor || [-step[0], -step[1]];
      show([
        Math.max(0, Math.min(spec.rows.length - 1, r + step[0])),
        Math.max(0, Math.min(spec.columns.length - 1, c + step[1])),
      ]);
    });
    return root;
  }

  return { create, layerLabel };
})();
