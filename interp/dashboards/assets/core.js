/* Data files call INTERP.receive(key, payload); pages ask for them with INTERP.load(key).
   Script tags are the only way to read a file beside a page opened from file://. */
"use strict";

var INTERP = (function () {
  const DATA = "bundle/data/";
  const TYPES = {
    u1: Uint8Array,
    i1: Int8Array,
    u2: Uint16Array,
    i2: Int16Array,
    u4: Uint32Array,
    i4: Int32Array,
    f4: Float32Array,
    f8: Float64Array,
  };
  // Feature shards kept decoded; others are read again from disk in a few milliseconds.
  const SHARDS_KEPT = 24;
  const received = new Map();
  const pending = new Map();
  const shardKeys = [];

  function fromBase64(data) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(data);
    const text = atob(data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  function decode(record) {
    const values = new TYPES[record.dtype](fromBase64(record.data).buffer);
    values.shape = record.shape;
    return values;
  }

  function isArrayRecord(value) {
    return (
      value !== null &&
      typeof value === "object" &&
      typeof value.data === "string" &&
      value.dtype in TYPES &&
      Array.isArray(value.shape)
    );
  }

  function decodeAll(payload) {
    const out = {};
    for (const [name, value] of Object.entries(payload)) {
      if (isArrayRecord(value)) out[name] = decode(value);
      else if (name === "cells") out[name] = decodeAll(value);
      else out[name] = value;
    }
    return out;
  }

  function receive(key, payload) {
    received.set(key, decodeAll(payload));
    if (key.includes("/shard")) {
      shardKeys.push(key);
      if (shardKeys.length > SHARDS_KEPT) received.delete(shardKeys.shift());
    }
  }

  function load(key) {
    if (received.has(key)) return Promise.resolve(received.get(key));
    if (pending.has(key)) return pending.get(key);
    const promise = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = DATA + key + ".js";
      script.onload = () => {
        script.remove();
        pending.delete(key);
        if (received.has(key)) resolve(received.get(key));
        else reject(new Error(script.src + " holds other data; build the dashboard again"));
      };
      script.onerror = () => {
        pending.delete(key);
        script.remove();
        reject(
          new Error(
            "bundle/data/" +
              key +
              ".js is missing; copy the whole folder, or build the dashboard again",
          ),
        );
      };
      document.head.append(script);
    });
    pending.set(key, promise);
    return promise;
  }

  /* One entry of the first axis of a decoded array. */
  function row(values, index) {
    const size = values.length / (values.shape[0] || 1);
    return values.subarray(index * size, (index + 1) * size);
  }

  /* Build an element. Text always goes through textContent: captions and names stay inert. */
  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "text") node.textContent = value;
      else if (name === "style")
        for (const [key, entry] of Object.entries(value))
          key.startsWith("--") ? node.style.setProperty(key, entry) : (node.style[key] = entry);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined && child !== false) node.append(child);
    }
    return node;
  }

  function number(value, digits) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US");
    if (size >= 1e5 || (size < 1e-3 && size > 0))
      return value.toExponential(1).replace("e", "e").replace("-", "−");
    return value.toPrecision(digits || 3).replace("-", "−");
  }

  function fixed(value, digits) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    return value.toFixed(digits === undefined ? 3 : digits).replace("-", "−");
  }

  function percent(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const scaled = 100 * value;
    if (scaled === 0) return "0 %";
    if (scaled < 0.001) return scaled.toExponential(0).replace("-", "−") + " %";
    return (
      (scaled < 0.1 ? scaled.toFixed(3) : scaled < 10 ? scaled.toFixed(2) : scaled.toFixed(1)) +
      " %"
    );
  }

  function pValue(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    return value < 0.001 ? "< 0.001" : value.toFixed(3);
  }

  function imageUrl(store, generation) {
    const path = "thumbs/" + store + "/" + generation + ".webp";
    return INTERP.inlineImages ? INTERP.inlineImages[path] || "" : "bundle/" + path;
  }

  /* What the page knows of one generation of a store: caption, category, seed ... */
  function generationInfo(store, generation) {
    if (!store.position) {
      store.position = new Map();
      store.generation.forEach((value, index) => store.position.set(value, index));
    }
    const index = store.position.get(generation);
    const info = { generation };
    for (const [name, values] of Object.entries(store.columns)) {
      if (index !== undefined && values[index] !== null) info[name] = values[index];
    }
    info.text = String(
      info.caption || info.prompt || info.category || info.image_id || "generation " + generation,
    );
    return info;
  }

  function announce(text) {
    document.getElementById("live").textContent = text;
  }

  return {
    receive,
    load,
    row,
    el,
    number,
    fixed,
    percent,
    pValue,
    imageUrl,
    generationInfo,
    announce,
    meta: () => received.get("meta"),
    has: (key) => received.has(key),
    inlineImages: null,
    lastShown: "",
    views: {},
  };
})();
