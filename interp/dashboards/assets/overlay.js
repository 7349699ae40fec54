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
      scale: params.scale === "image" ? "image" : "latent",
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
          [12, 14, 20, 255 * look.opacity * (1 - (active ? unit : 0))],
          4 * level,
        );
      } else if (active) {
        const color = table.subarray(3 * Math.round(unit * 255));
        // Linear, so that twice the activation looks like twice as much; the weakest fade in.
        const alpha = (0.12 + 0.88 * unit) * Math.min(1, unit * 12);
        bytes.set([color[0], color[1], color[2], 255 * look.opacity * alpha], 4 * level);
      }
    }
    paints.key = key;
    paints.bytes = bytes;
    return bytes;
  }

  /* The map in units of its own largest value: for looking into weak images. */
  function stretched(map) {
    let most = 0;
    for (const level of map) if (level !== MISSING && level > most) most = level;
    if (!most) return map;
    return map.map((level) => (level === MISSING ? MISSING : Math.round((level * LEVELS) / most)));
  }

  /* A line at half of the scale, light inside and dark outside: seen on pictures of any color. */
  function contour(pixels, levels) {
    const above = (i) => levels[i] !== MISSING && levels[i] >= LEVELS / 2;
    const last = SMOOTH - 1;
    for (let y = 0; y < SMOOTH; y++)
      for (let x = 0; x < SMOOTH; x++) {
        const i = y * SMOOTH + x;
        const inside = above(i);
        if (
          (x > 0 && above(i - 1) !== inside) ||
          (x < last && above(i + 1) !== inside) ||
          (y > 0 && above(i - SMOOTH) !== inside) ||
          (y < last && above(i + SMOOTH) !== inside)
        )
          pixels[i] = inside ? 0xe8ffffff : 0x98201010;
      }
  }

  /* Draw map (bytes [h * w]) on a canvas with the given look. */
  function draw(canvas, map, h, w, look) {
    canvas.hidden = !look.show;
    if (!look.show) return;
    const scaled = look.scale === "image" ? stretched(map) : map;
    const levels = look.smooth ? enlarge(scaled, h, w) : scaled;
    canvas.width = look.smooth ? SMOOTH : w;
    canvas.height = look.smooth ? SMOOTH : h;
    canvas.classList.toggle("pixelated", !look.smooth);
    const colors = new Uint32Array(palette(look).buffer);
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = colors[levels[i]];
    if (look.smooth) contour(pixels, levels);
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /* The color of activation `unit` (0 to 1) under a look, for the legend. */
  function css(look, unit) {
    const at = 4 * Math.round(unit * LEVELS);
    const [r, g, b, a] = palette(look).subarray(at, at + 4);
    return "rgb(" + [r, g, b].join(" ") + " / " + (a / 255).toFixed(3) + ")";
  }

  return { draw, options, css, MISSING, LEVELS };
})();
