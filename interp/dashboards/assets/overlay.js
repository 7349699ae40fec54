/* Activation maps drawn over pictures, from bytes: 0..254 is activation / largest, 255 is "not captured". */
"use strict";

INTERP.overlay = (function () {
  const LEVELS = 254;
  const MISSING = 255;
  // Side of the canvas for smooth maps; CSS scales it to the picture.
  const SMOOTH = 64;
  const axes = {};
  const paints = { key: "", bytes: null };

  function options(params) {
    return {
      show: params.map === "1",
      opacity: Number(params.opacity),
      cmap: INTERP.colors.OVERLAYS.includes(params.cmap) ? params.cmap : "orchid",
      threshold: Number(params.threshold),
      smooth: params.interp === "bilinear",
    };
  }

  /* For each pixel along an axis of n cells: the two cells around it and the weight of the second. */
  function axis(n) {
    if (axes[n]) return axes[n];
    const low = new Uint16Array(SMOOTH);
    const high = new Uint16Array(SMOOTH);
    const share = new Float32Array(SMOOTH);
    for (let i = 0; i < SMOOTH; i++) {
      const at = Math.max(0, Math.min(n - 1, ((i + 0.5) * n) / SMOOTH - 0.5));
      low[i] = Math.floor(at);
      high[i] = Math.min(n - 1, low[i] + 1);
      share[i] = at - low[i];
    }
    axes[n] = { low, high, share };
    return axes[n];
  }

  /* Bilinear bytes [SMOOTH, SMOOTH]; cells that were not captured have no weight. */
  function enlarge(map, h, w) {
    const out = new Uint8Array(SMOOTH * SMOOTH);
    const rows = axis(h);
    const columns = axis(w);
    for (let i = 0; i < SMOOTH; i++) {
      const top = rows.low[i] * w;
      const bottom = rows.high[i] * w;
      const fy = rows.share[i];
      for (let j = 0; j < SMOOTH; j++) {
        const left = columns.low[j];
        const right = columns.high[j];
        const fx = columns.share[j];
        const a = map[top + left];
        const b = map[top + right];
        const c = map[bottom + left];
        const d = map[bottom + right];
        const wa = a === MISSING ? 0 : (1 - fy) * (1 - fx);
        const wb = b === MISSING ? 0 : (1 - fy) * fx;
        const wc = c === MISSING ? 0 : fy * (1 - fx);
        const wd = d === MISSING ? 0 : fy * fx;
        const weight = wa + wb + wc + wd;
        out[i * SMOOTH + j] =
          weight > 0 ? Math.round((a * wa + b * wb + c * wc + d * wd) / weight) : MISSING;
      }
    }
    return out;
  }

  /* RGBA of every byte level under the given look. */
  function palette(look) {
    const key = [look.cmap, look.opacity, look.threshold].join();
    if (paints.key === key) return paints.bytes;
    const bytes = new Uint8ClampedArray(256 * 4);
    const table = look.cmap === "spotlight" ? null : INTERP.colors.table(look.cmap);
    for (let level = 0; level < 256; level++) {
      const unit = level === MISSING ? 0 : level / LEVELS;
      const active = unit > 0 && unit >= look.threshold;
      if (!table) {
        bytes.set(
          [12, 14, 20, 255 * look.opacity * (1 - (active ? Math.sqrt(unit) : 0))],
          4 * level,
        );
      } else if (active) {
        const color = table.subarray(3 * Math.round(unit * 255));
        // Weak activation is faint, so that the picture stays readable beneath it.
        const alpha = Math.min(1, 0.25 + 0.75 * Math.sqrt(unit)) * Math.min(1, unit * 8);
        bytes.set([color[0], color[1], color[2], 255 * look.opacity * alpha], 4 * level);
      }
    }
    paints.key = key;
    paints.bytes = bytes;
    return bytes;
  }

  /* Draw map (bytes [h * w]) on a canvas with the given look. */
  function draw(canvas, map, h, w, look) {
    canvas.hidden = !look.show;
    if (!look.show) return;
    const levels = look.smooth ? enlarge(map, h, w) : map;
    canvas.width = look.smooth ? SMOOTH : w;
    canvas.height = look.smooth ? SMOOTH : h;
    canvas.classList.toggle("pixelated", !look.smooth);
    const colors = new Uint32Array(palette(look).buffer);
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colors[levels[i]];
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  return { draw, options, MISSING, LEVELS };
})();
