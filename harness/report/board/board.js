// Sorts and filters the tables. The state is in the address, so that a view can be linked to:
// #q=words&subset=all&sort=TABLE.COLUMN.desc. Without scripts, the tables are sorted by rank.
"use strict";

const tables = [...document.querySelectorAll("main table")];
const facets = {subset: "training classes", arch: "architecture", model: "model", eps: "eps", by: "measured by"};
const form = document.createElement("form");
const status = document.createElement("span");
const fields = {};

function headings(table) {
  return [...table.tHead.rows[0].cells];
}

function sortTable(table, column, descending) {
  const value = (row) => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    const numbers = [Number(left), Number(right)];
    const order = numbers.some(Number.isNaN) ? left.localeCompare(right, "en", {numeric: true}) : numbers[0] - numbers[1];
    return descending ? -order : order;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  headings(table).forEach((heading, index) => {
    heading.setAttribute("aria-sort", index !== column ? "none" : descending ? "descending" : "ascending");
  });
}

function filterRows() {
  const words = fields.q.value.toLowerCase().split(/\s+/);
  let shown = 0;
  let all = 0;
  for (const table of tables) {
    let inTable = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const matches = Object.keys(facets).every((name) => {
        const wanted = fields[name] ? fields[name].value : "";
        return !wanted || row.dataset[name] === undefined || row.dataset[name].split(" | ").includes(wanted);
      });
      row.hidden = !matches || !words.every((word) => text.includes(word));
      inTable += !row.hidden;
    }
    shown += inTable;
    all += table.tBodies[0].rows.length;
  }
  status.textContent = shown < all ? `${shown} of ${all} rows` : "";
}

function writeAddress() {
  const state = new URLSearchParams();
  for (const [name, field] of Object.entries(fields)) if (field.value) state.set(name, field.value);
  for (const table of tables) {
    const sorted = headings(table).find((heading) => ["ascending", "descending"].includes(heading.getAttribute("aria-sort")));
    if (sorted) state.append("sort", `${table.id}.${sorted.textContent}.${sorted.getAttribute("aria-sort").slice(0, -6)}`);
  }
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function readAddress() {
  if (!location.hash.includes("=")) return; // an anchor
  const state = new URLSearchParams(location.hash.slice(1));
  for (const [name, field] of Object.entries(fields)) {
    const wanted = state.get(name) || "";
    field.value = wanted;
    if (field.value !== wanted) field.value = "";
  }
  filterRows();
  for (const text of state.getAll("sort")) {
    const [first, last] = [text.indexOf("."), text.lastIndexOf(".")];
    const table = tables.find((one) => one.id === text.slice(0, first));
    const column = table ? headings(table).findIndex((one) => one.textContent === text.slice(first + 1, last)) : -1;
    if (column >= 0) sortTable(table, column, text.slice(last + 1) === "desc");
  }
}

function addField(name, label, field) {
  const line = document.createElement("label");
  line.append(label, field);
  form.append(line);
  fields[name] = field;
  field.addEventListener("input", () => {
    filterRows();
    writeAddress();
  });
}

for (const table of tables) {
  headings(table).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const state = heading.getAttribute("aria-sort");
      sortTable(table, column, state === "none" ? heading.classList.contains("number") : state === "ascending");
      writeAddress();
    });
  });
}

if (tables.length) {
  const search = document.createElement("input");
  search.type = "search";
  addField("q", "search", search);
  for (const [name, label] of Object.entries(facets)) {
    const rows = [...document.querySelectorAll(`tr[data-${name}]`)];
    const values = [...new Set(rows.flatMap((row) => row.dataset[name].split(" | ")))].filter(Boolean);
    if (values.length < 2 || values.length > 200) continue;
    const select = document.createElement("select");
    for (const value of ["", ...values.sort((a, b) => a.localeCompare(b, "en", {numeric: true}))]) {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = value || "all";
      select.append(option);
    }
    addField(name, label, select);
  }
  status.setAttribute("role", "status");
  form.className = "filters";
  form.append(status);
  form.addEventListener("submit", (event) => event.preventDefault());
  const lead = document.querySelector(".lead");
  if (lead) lead.after(form);
  else document.querySelector("main").prepend(form);
  addEventListener("hashchange", readAddress);
  readAddress();
}
