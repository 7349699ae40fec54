/* Live steering on the page of a latent. A server that renders adds this file to the page; the
   static page has none of it. */
"use strict";

(function () {
  const { el } = INTERP;
  const TOKEN = document.querySelector('meta[name="interp-live"]').content;
  let about = null;
  // What the reader chose last, kept from latent to latent.
  const chosen = { mode: "add", strength: {}, seed: 0 };
  // Pictures without an edit, by seed: every latent shares them.
  const plain = new Map();

  async function ask(path, body) {
    const options = { headers: { "X-Interp-Token": TOKEN }, cache: "no-store" };
    if (body) {
      options.method = "POST";
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch("live/" + path, options);
    } catch {
      throw new Error("The server does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || "The server answered with status " + answer.status + ".");
  }

  async function picture(request) {
    const answer = await ask("render", request);
    return URL.createObjectURL(await answer.blob());
  }

  /* The picture of a seed without an edit, asked for once. */
  async function unedited(digest, seed) {
    if (!plain.has(seed)) {
      const dial = about.dials.add;
      const request = { sae: digest, feature: 0, mode: "add", strength: dial.neutral, seed };
      plain.set(seed, await picture(request));
    }
    return plain.get(seed);
  }

  const shown = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

  function view(title) {
    const image = el("img", { alt: "", hidden: true });
    return { image, figure: el("figure", {}, image, el("figcaption", { text: title })) };
  }

  function put(target, url, alt) {
    target.image.src = url;
    target.image.alt = alt;
    target.image.hidden = false;
  }

  function controls(panel, render) {
    const output = el("output", {});
    const words = el("p", { class: "note" });
    const slider = el("input", { type: "range", name: "strength", "aria-label": "Strength" });
    const seed = el("input", {
      type: "number",
      name: "seed",
      min: 0,
      max: about.max_seed,
      step: 1,
      value: chosen.seed,
      "aria-label": "Seed",
    });
    const mode = el(
      "select",
      { name: "mode", "aria-label": "Mode" },
      Object.keys(about.dials).map((name) =>
        el("option", { value: name, text: name, selected: name === chosen.mode }),
      ),
    );
    const dial = () => about.dials[chosen.mode];
    function set() {
      const { low, high, start } = dial();
      Object.assign(slider, { min: low, max: high, step: (high - low) / 80 });
      slider.value = chosen.strength[chosen.mode] ?? start;
      words.textContent = "Strength: " + dial().words + ".";
      read();
    }
    function read() {
      chosen.strength[chosen.mode] = Number(slider.value);
      output.textContent = shown(Number(slider.value));
    }
    slider.addEventListener("input", read);
    slider.addEventListener("change", render);
    mode.addEventListener("change", () => {
      chosen.mode = mode.value;
      set();
      render();
    });
    seed.addEventListener("change", () => {
      const value = Math.round(Number(seed.value));
      chosen.seed = Math.min(Math.max(value || 0, 0), about.max_seed);
      seed.value = chosen.seed;
      render();
    });
    const field = (text, ...nodes) => el("label", { class: "field" }, el("span", { text }), nodes);
    const button = el("button", { type: "button", class: "button", onclick: render }, "Render");
    panel.append(
      el(
        "div",
        { class: "live-controls" },
        field("Mode", mode),
        field("Strength", slider, output),
        field("Seed", seed),
        button,
      ),
      words,
    );
    set();
    return button;
  }

  function build(sae, id) {
    const digest = sae.sae.digest;
    const panel = el("section", { class: "panel live", "aria-label": "Live steering" });
    const status = el("p", { class: "note", role: "status" });
    const left = view("without an edit");
    const right = view("steered");
    // One picture at a time: the last wish made meanwhile is answered next.
    let running = false;
    let again = false;

    async function draw() {
      const strength = chosen.strength[chosen.mode];
      const { mode, seed } = chosen;
      const name = "latent " + id + ", " + mode + " " + shown(strength) + ", seed " + seed;
      put(left, await unedited(digest, seed), "seed " + seed + " without an edit");
      const url = await picture({ sae: digest, feature: id, mode, strength, seed });
      if (right.image.src.startsWith("blob:")) URL.revokeObjectURL(right.image.src);
      put(right, url, name);
      right.figure.lastChild.textContent = mode + " " + shown(strength);
      status.textContent = name;
    }

    async function render() {
      again = running;
      if (running) return;
      running = button.disabled = true;
      status.className = "note";
      status.textContent = "Rendering …";
      try {
        await draw();
      } catch (error) {
        status.className = "caution";
        status.textContent = error.message;
      }
      running = button.disabled = false;
      if (again && panel.isConnected) render();
    }

    panel.append(
      el(
        "div",
        { class: "panel-head" },
        el("h2", {}, "Live steering", el("small", { text: about.model })),
      ),
    );
    const button = controls(panel, render);
    panel.append(el("div", { class: "live-views" }, left.figure, right.figure), status);
    return panel;
  }

  function place() {
    const [index, id] = (document.body.dataset.shown || "").split("/").map(Number);
    const sae = INTERP.meta().saes[index];
    const columns = document.querySelector(".feature-body > .columns");
    if (!sae || !columns || !(sae.sae.digest in about.saes)) return;
    document.querySelector(".panel.live")?.remove();
    columns.after(build(sae, id));
  }

  async function start() {
    try {
      about = await (await ask("about")).json();
      chosen.seed = about.seed;
    } catch {
      return;
    }
    new MutationObserver(place).observe(document.body, { attributeFilter: ["data-shown"] });
    place();
  }

  start();
})();
