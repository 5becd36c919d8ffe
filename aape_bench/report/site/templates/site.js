"use strict";
// Sorting, filtering and the theme. Without scripts the pages show everything, in the leaderboard's order.

const value = (row, column, kind) => {
  const cell = row.cells[column];
  if (!cell) return kind === "number" ? null : "";
  const text = cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
  if (kind !== "number") return text.toLowerCase();
  const number = parseFloat(text.replace(/[\s\u202f]/g, "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
};

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const kind = head.dataset.sort;
      // numbers are looked at from the top, names from A
      const first = kind === "number" ? "descending" : "ascending";
      const now = head.getAttribute("aria-sort");
      const order = now === first ? (first === "ascending" ? "descending" : "ascending") : first;
      heads.forEach((one) => one.hasAttribute("aria-sort") && one.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map((row, at) => [value(row, column, kind), at, row]);
      rows.sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j; // what has no value stands last
        return (a < b ? -sign : a > b ? sign : 0) || i - j;
      });
      table.tBodies[0].append(...rows.map(([, , row]) => row));
    });
  });
}

const form = document.querySelector("form.filters");
if (form) {
  const rows = [...document.querySelector("#results").tBodies[0].rows];
  const count = form.querySelector("output");
  const apply = () => {
    const asked = Object.fromEntries(new FormData(form));
    const model = (asked.model || "").toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const data = row.dataset;
      const states = data.state.split(" ");
      // a protocol of ours does not hide what others published on the task
      const hidden =
        !data.model.toLowerCase().includes(model) ||
        (asked.domain && data.domain !== asked.domain) ||
        (asked.task && data.task !== asked.task) ||
        (asked.protocol && data.protocol !== asked.protocol && !states.includes("published")) ||
        (asked.state && !states.includes(asked.state)) ||
        (asked.published === undefined && asked.state !== "published" && states.includes("published"));
      row.hidden = Boolean(hidden);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

const button = document.querySelector("#theme");
const root = document.documentElement;
const store = (name) => {
  try { localStorage.setItem("theme", name); } catch { /* kept for this page only */ }
};
const stored = () => {
  try { return localStorage.getItem("theme"); } catch { return null; }
};
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
if (stored()) root.dataset.theme = stored();
const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
button.hidden = false;
button.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  store(root.dataset.theme);
  label();
});
label();
