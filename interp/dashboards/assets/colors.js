/* Colour maps (colour-blind-safe), the categorical palette, and the theme's colours for canvas and charts. */
"use strict";

INTERP.colors = (function () {
  const ANCHORS = {
    orchid: "f9bdec f08fdd e55fce d733c0 c012b4 a305a3 86008f",
    ember: "ffd9a8 ffb870 f98f45 e8622a c63c1f 941f1f 5c1020",
    viridis: "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
    magma: "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
    inferno: "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    diverging: "123f6b 2f6ea5 7fb0d3 cfe1ec f5f3ef f6d7bd e59d62 c2641f 7c3606",
  };
  // "spotlight" darkens what is inactive instead of painting what is active.
  const OVERLAYS = ["orchid", "ember", "viridis", "cividis", "magma", "inferno", "spotlight"];
  // Okabe and Ito (2008), black replaced by two hues that are seen on dark pages too. All further
  // categories share one grey.
  const CATEGORICAL = [
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8a7d00",
    "#7a5195",
  ];
  const tables = {};

  function table(name) {
    if (tables[name]) return tables[name];
    const anchors = ANCHORS[name]
      .split(" ")
      .map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));
    const out = new Uint8Array(256 * 3);
    for (let i = 0; i < 256; i++) {
      const at = (i / 255) * (anchors.length - 1);
      const low = Math.min(Math.floor(at), anchors.length - 2);
      for (let c = 0; c < 3; c++) {
        out[3 * i + c] = Math.round(
          anchors[low][c] + (at - low) * (anchors[low + 1][c] - anchors[low][c]),
        );
      }
    }
    tables[name] = out;
    return out;
  }

  function css(name, unit) {
    const values = table(name);
    const i = 3 * Math.max(0, Math.min(255, Math.round(unit * 255)));
    return "rgb(" + values[i] + "," + values[i + 1] + "," + values[i + 2] + ")";
  }

  function scale(name) {
    return Array.from({ length: 17 }, (_, i) => [i / 16, css(name, i / 16)]);
  }

  /* The computed value of a CSS colour token, resolved for the current theme. */
  function token(name) {
    const probe = document.createElement("i");
    probe.style.color = "var(--" + name + ")";
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  function luminance(color) {
    const [r, g, b] = color.match(/\d+(\.\d+)?/g).map(Number);
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  }

  return { OVERLAYS, CATEGORICAL, table, css, scale, token, luminance };
})();
