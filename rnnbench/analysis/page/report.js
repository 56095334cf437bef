"use strict";
// Sorting and filtering; without it, every table is there as it stands.

const NUMBER = /^[+\-−]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?/i;

// The number that a text begins with: 8.482 of "8.482 ± 0.03 (10)", 20502 of "20,502"; NaN if it begins with none.
function leading(text) {
  const found = NUMBER.exec(text);
  if (found) return Number(found[0].replaceAll(",", "").replace("−", "-"));
  return /^[+\-−]?inf/i.test(text) ? (/^[\-−]/.test(text) ? -Infinity : Infinity) : NaN;
}

// By number where every text of the column has one, else by words; what is empty comes last, either way up.
function sort(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [row.cells[column].textContent.trim(), row]);
  const numeric = rows.every(([text]) => text === "" || !Number.isNaN(leading(text)));
  const words = new Intl.Collator("en", { numeric: true });
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numeric ? leading(a) - leading(b) || 0 : words.compare(a, b);
    return descending ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

const filter = document.getElementById("filter");
filter.parentElement.hidden = false;
const runs = Array.from(document.getElementById("all-runs").tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);
function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [row, text] of runs) {
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${runs.length} runs`;
}
filter.addEventListener("input", show);
show();

// A link to a config opens what it is folded into; what is folded is printed, but for the configs.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
if (location.hash) reveal();
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("#summary details, #tables details")) part.open = true;
});
