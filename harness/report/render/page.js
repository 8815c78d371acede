// Sorts a table by the column whose heading is clicked; cells without a value stay last. `#sort=TABLE,COLUMN,descending`
// in the address sorts when the page opens, so that links can point to a sorted table (columns count from 0).
"use strict";

function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    const numbers = [Number(left), Number(right)];
    const order = numbers.some(Number.isNaN) ? left.localeCompare(right, "en", {numeric: true}) : numbers[0] - numbers[1];
    return descending ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
  const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
  [...headings].forEach((heading, index) => {
    heading.setAttribute("aria-sort", index !== column ? "none" : descending ? "descending" : "ascending");
  });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const state = heading.getAttribute("aria-sort");
    const descending = state === "none" ? heading.classList.contains("number") : state === "ascending";
    sortTable(heading.closest("table"), heading.cellIndex, descending);
  });
}

// Long tables get a field that hides the rows without all of its words.
for (const section of document.querySelectorAll("section.tall")) {
  const rows = [...section.querySelector("tbody").rows];
  const field = document.createElement("input");
  const count = document.createElement("span");
  field.type = "search";
  field.placeholder = "Filter rows";
  field.setAttribute("aria-label", `Filter rows: ${section.querySelector("h3").textContent}`);
  count.setAttribute("role", "status");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = ` ${shown} of ${rows.length} rows`;
  });
  const line = document.createElement("p");
  line.className = "filter";
  line.append(field, count);
  section.querySelector("h3").after(line);
}

const wanted = /^#sort=([\w-]+),(\d+)(,descending)?$/.exec(location.hash);
if (wanted) {
  const table = document.getElementById(wanted[1]);
  if (table && table.tHead && Number(wanted[2]) < table.tHead.rows[table.tHead.rows.length - 1].cells.length) {
    sortTable(table, Number(wanted[2]), Boolean(wanted[3]));
    for (let parent = table.parentElement; parent; parent = parent.parentElement) if (parent.tagName === "DETAILS") parent.open = true;
  }
}
