/* How good an SAE is, beside codes with as many coefficients and at each noise level. */
"use strict";

INTERP.quality = (function () {
  const { el, number, fixed, percent } = INTERP;
  const { text } = INTERP.glossary;

  /* The SAE on the baselines' sample of rows, and the other code with the lowest FVU there. */
  function compared(evaluation) {
    const codes = (evaluation && evaluation.baselines) || [];
    const known = codes.filter((code) => code.name !== "sae" && code.fvu !== null);
    const best = known.sort((a, b) => a.fvu - b.fvu)[0] || null;
    const sae = codes.find((code) => code.name === "sae") || null;
    return { best, sae, beaten: Boolean(best && sae && sae.fvu !== null && best.fvu <= sae.fvu) };
  }

  /* The best baseline in a few words. */
  function besideText(evaluation) {
    const { best } = compared(evaluation);
    return best ? fixed(best.fvu) + " " + best.name : "–";
  }

  function besideTitle(evaluation) {
    const { best, sae } = compared(evaluation);
    if (!best) return text("baseline");
    return (
      best.name +
      " with k = " +
      best.k +
      ", fitted on " +
      best.fitted_on +
      ": FVU " +
      fixed(best.fvu) +
      (sae ? ", the SAE on the same sample of rows " + fixed(sae.fvu) : "")
    );
  }

  function beatenBadge(evaluation) {
    const { best, beaten } = compared(evaluation);
    if (!beaten) return null;
    return el("span", {
      class: "badge warn",
      text: "not below " + best.name,
      title: besideTitle(evaluation),
    });
  }

  function summary(evaluation) {
    const { best, sae, beaten } = compared(evaluation);
    if (!best || !sae) return "Quality: FVU " + fixed(evaluation.fvu);
    return (
      (sae.fvu === evaluation.fvu ? "Quality: FVU " : "Quality on one sample of rows: FVU ") +
      fixed(sae.fvu) +
      " beside " +
      fixed(best.fvu) +
      " of " +
      best.name +
      " with as many coefficients" +
      (beaten ? ": the SAE explains no more" : "")
    );
  }

  const LABELS =
    "mean over categories of the AUC of the best single coefficient, chosen on one half of the images and measured on the other; 0.5 is chance";
  const CODES = [
    ["Code"],
    ["k", "coefficients per row", true],
    ["FVU", text("FVU"), true],
    ["Fitted on", "the rows that the code was made from"],
    ["Label AUC", LABELS, true],
  ];
  const CALLS = [
    ["Call", "position in the order of denoising", true],
    ["log-SNR", text("log-SNR"), true],
    ["FVU within", "against the variance within this noise level", true],
    ["L0", text("L0"), true],
  ];

  function line(cells) {
    return el(
      "tr",
      {},
      cells.map(([value, numeric]) => el("td", { class: numeric ? "num" : "", text: value })),
    );
  }

  function codeRow(code) {
    const name = code.name === "sae" ? "SAE" : code.name;
    const labels = code.labels ? fixed(code.labels.per_category) : "–";
    return line([
      [name],
      [number(code.k), true],
      [fixed(code.fvu), true],
      [code.fitted_on || "–"],
      [labels, true],
    ]);
  }

  function callRow(call) {
    const cells = [number(call.call), fixed(call.log_snr, 1), fixed(call.fvu), number(call.l0)];
    return line(cells.map((value) => [value, true]));
  }

  /* Why the SAE has two numbers, and why no level's number is a part of the total. */
  function notes(evaluation, many) {
    const { sae } = compared(evaluation);
    const out = [];
    const peeked = (evaluation.baselines || []).filter((code) => code.fitted_on === "the judged rows");
    const seen = peeked
      .map((code) => " " + code.name + " was fitted on the judged rows, which flatters it.")
      .join("");
    const whole = sae && sae.fvu === evaluation.fvu;
    if (whole) out.push("All codes of this table are judged on the same held-out rows." + seen);
    else if (sae)
      out.push(
        "All codes of this table are judged on one sample of the held-out rows: FVU " +
          fixed(sae.fvu) +
          " for the SAE there, " +
          fixed(evaluation.fvu) +
          " on all " +
          number(evaluation.n_rows) +
          " rows." +
          seen,
      );
    if ((evaluation.controls || []).some((code) => code.name.includes("twin")))
      out.push("The SAE of the untrained twin is judged on rows of the twin.");
    if (many)
      out.push(
        "Each noise level is centered by itself: its variance leaves out the differences between levels, which count in the total. So all levels can lie above the total FVU of " +
          fixed(evaluation.fvu) +
          ".",
      );
    return out.map((note) => el("p", { class: "note", text: note }));
  }

  /* The panel below the table of latents. */
  function panel({ evaluation, substitution }, open) {
    if (!evaluation) return null;
    const codes = (evaluation.baselines || []).concat(evaluation.controls || []).map(codeRow);
    const calls = (evaluation.per_call || []).map(callRow);
    const many = calls.length > 1;
    if (!codes.length && !many) return null;
    const { table, facts } = INTERP.controls;
    const known = facts([
      ["held-out rows", number(evaluation.n_rows)],
      ["held-out generations", number(evaluation.n_generations)],
      ["||mean|| / ||std||", number(evaluation.severity)],
      ["second seed found", evaluation.matched == null ? null : percent(evaluation.matched)],
      ["damage", substitution && INTERP.overview.damageText(substitution)],
      ["distance", substitution && substitution.distance],
    ]);
    return el(
      "details",
      { class: "panel provenance quality-panel", open },
      el("summary", { text: summary(evaluation) }),
      el(
        "div",
        { class: "quality" },
        codes.length ? table(CODES, codes, "Baselines") : null,
        many ? table(CALLS, calls, "By noise level") : null,
        known,
      ),
      notes(evaluation, many),
    );
  }

  return { panel, besideText, besideTitle, beatenBadge };
})();
