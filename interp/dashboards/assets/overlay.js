/* Activation maps drawn over pictures, from bytes: 0..254 is activation / largest, 255 is "not captured". */
"use strict";

INTERP.overlay = (function () {
  const LEVELS = 254;
  const MISSING = 255;
  // Side of the canvas for smooth maps; CSS scales it to the picture.
  const SMOOTH = 96;

  function options(params) {
    return {
      show: params.map === "1", opacity: Number(params.opacity), cmap: params.cmap,
      threshold: Number(params.threshold), smooth: params.interp === "bilinear",
    };
  }

  /* Bilinear value at (y, x) in cell units; cells that were not captured have no weight. */
  function sample(map, h, w, y, x) {
    const y0 = Math.max(0, Math.min(h - 1, Math.floor(y)));
    const x0 = Math.max(0, Math.min(w - 1, Math.floor(x)));
    const y1 = Math.min(h - 1, y0 + 1);
    const x1 = Math.min(w - 1, x0 + 1);
    const fy = Math.max(0, Math.min(1, y - y0));
    const fx = Math.max(0, Math.min(1, x - x0));
    let sum = 0;
    let weight = 0;
    const add = (value, share) => {
      if (value === MISSING) return;
      sum += value * share;
      weight += share;
    };
    add(map[y0 * w + x0], (1 - fy) * (1 - fx));
    add(map[y0 * w + x1], (1 - fy) * fx);
    add(map[y1 * w + x0], fy * (1 - fx));
    add(map[y1 * w + x1], fy * fx);
    return weight > 0 ? sum / weight / LEVELS : NaN;
  }

  function paint(pixels, at, unit, look, table) {
    if (look.cmap === "spotlight") {
      const lit = Number.isNaN(unit) || unit < look.threshold ? 0 : unit;
      pixels[at] = 12; pixels[at + 1] = 14; pixels[at + 2] = 20;
      pixels[at + 3] = Math.round(255 * look.opacity * (1 - Math.sqrt(lit)));
      return;
    }
    if (Number.isNaN(unit) || unit <= 0 || unit < look.threshold) return;
    const i = 3 * Math.round(unit * 255);
    pixels[at] = table[i]; pixels[at + 1] = table[i + 1]; pixels[at + 2] = table[i + 2];
    // Weak activation is faint, so that the picture stays readable beneath it.
    pixels[at + 3] = Math.round(255 * look.opacity * Math.min(1, 0.25 + 0.75 * Math.sqrt(unit)) * Math.min(1, unit * 8));
  }

  /* Draw map (bytes [h * w]) on a canvas with the given look. */
  function draw(canvas, map, h, w, look) {
    canvas.hidden = !look.show;
    if (!look.show) return;
    const height = look.smooth ? SMOOTH : h;
    const width = look.smooth ? SMOOTH : w;
    canvas.width = width;
    canvas.height = height;
    canvas.classList.toggle("pixelated", !look.smooth);
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const table = look.cmap === "spotlight" ? null : INTERP.colors.table(INTERP.colors.OVERLAYS.includes(look.cmap) ? look.cmap : "ember");
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const unit = look.smooth
          ? sample(map, h, w, ((i + 0.5) * h) / height - 0.5, ((j + 0.5) * w) / width - 0.5)
          : map[i * w + j] === MISSING ? NaN : map[i * w + j] / LEVELS;
        paint(image.data, 4 * (i * width + j), unit, look, table);
      }
    }
    context.putImageData(image, 0, 0);
  }

  return { draw, options, MISSING, LEVELS };
})();
