// What the page does: sorting, moving inside tables with the keyboard, telling where a number comes from, light and dark.
// Everything that is shown goes in as text (textContent), never as markup.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  // ---- light and dark: the system's choice until the reader makes one, kept where the browser allows it
  const root = document.documentElement;
  const stored = {
    get() { try { return localStorage.getItem("clasp-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("clasp-theme", value); } catch { /* a private window keeps nothing */ } },
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  const kept = stored.get();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();

  // ---- provenance
  const { fields, pool, cells } = JSON.parse(byId("provenance").textContent);
  const OWN = 4; // the first fields differ from cell to cell
  const LISTED = 12;
  const tip = byId("tip");
  const facts = (places) => {
    const found = places.map((place) => cells[place].map((at) => pool[at]));
    if (found.length === 1) return fields.map((field, i) => [field, [found[0][i]]]);
    const lines = found.slice(0, LISTED).map((cell) => `${cell[1]}: ${cell[2]}, ${cell[3]} questions, ${cell[0]}`);
    if (found.length > LISTED) lines.push(`and ${found.length - LISTED} more`);
    const shared = fields.slice(OWN).map((field, i) => {
      const values = [...new Set(found.map((cell) => cell[OWN + i]))];
      if (field === "finished") values.sort().splice(1, values.length - 2);
      return [field, field === "finished" ? [values.join(" to ")] : values];
    });
    return [[`${found.length} cells`, lines], ...shared];
  };
  const fill = (cell) => {
    const row = cell.parentElement;
    const table = cell.closest("table");
    const heading = table.tHead.rows[0].cells[cell.cellIndex].innerText.trim();
    const budget = row.querySelector(".budget").textContent;
    const isLabel = cell.matches("th");
    const number = isLabel || !cell.textContent.trim() ? "" : `: ${cell.textContent.trim()}`;
    tip.replaceChildren(
      element("p", `${row.cells[0].textContent}, ${budget} visual tokens${isLabel ? "" : `, ${heading}${number}`}`, "what"),
    );
    if (cell.dataset.note) tip.append(element("p", cell.dataset.note));
    const places = (cell.dataset.c ?? row.dataset.c).split(" ").filter(Boolean).map(Number);
    if (!places.length) return;
    const list = element("dl");
    for (const [name, values] of facts(places)) {
      const filled = values.filter(Boolean);
      if (!filled.length) continue;
      list.append(element("dt", name));
      for (const value of filled) list.append(element("dd", value));
    }
    tip.append(list);
  };
  let shown = null;
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    tip.hidden = true;
    shown?.removeAttribute("aria-describedby");
    shown = null;
  };
  const open = (cell) => {
    clearTimeout(timer);
    if (cell === shown) return;
    close();
    fill(cell);
    tip.hidden = false;
    shown = cell;
    cell.setAttribute("aria-describedby", "tip");
    const at = cell.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const below = at.bottom + 6;
    const top = below + own.height <= innerHeight ? below : Math.max(6, at.top - own.height - 6);
    tip.style.setProperty("--left", `${Math.max(6, Math.min(at.left, innerWidth - own.width - 14))}px`);
    tip.style.setProperty("--top", `${top}px`);
    tip.classList.toggle("high", at.top > innerHeight / 2); // on a phone, where it keeps clear of the cell
  };
  const numbered = (target) => target.closest?.(".results tbody tr:not(.group) > *");
  document.addEventListener("focusin", (event) => {
    const cell = numbered(event.target);
    if (cell) open(cell); else close();
  });
  document.addEventListener("mouseover", (event) => {
    const cell = numbered(event.target);
    clearTimeout(timer);
    // a pause, so that crossing a table opens nothing, and the pointer may move onto what has opened
    if (cell && cell !== shown) timer = setTimeout(open, 120, cell);
    else if (!cell && !tip.contains(event.target) && shown && shown !== document.activeElement) timer = setTimeout(close, 250);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("scroll", (event) => { if (shown && shown !== document.activeElement && event.target !== tip) close(); }, true);

  // ---- tables: sorting, and one tab stop each with arrow keys inside
  const number = (cell) => parseFloat(cell.textContent);
  const compare = (column, sign) => (one, other) => {
    if (!column) return sign * one.cells[0].textContent.localeCompare(other.cells[0].textContent, "en");
    const [a, b] = [number(one.cells[column]), number(other.cells[column])];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what has no value comes last
    return sign * (a - b);
  };
  const prepare = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const groups = [...table.tBodies].map((body) => ({ body, heading: body.rows[0], rows: [...body.rows].slice(1) }));
    const mixed = element("tbody");
    const state = { column: -1, sign: 0, together: true };
    const apply = () => {
      const order = (rows) => (state.sign ? [...rows].sort(compare(state.column, state.sign)) : rows);
      table.classList.toggle("grouped", state.together);
      if (state.together) {
        mixed.remove();
        for (const { body, heading, rows } of groups) {
          body.replaceChildren(heading, ...order(rows));
          table.append(body);
        }
      } else {
        for (const { body } of groups) body.remove();
        mixed.replaceChildren(...order(groups.flatMap(({ rows }) => rows)));
        table.append(mixed);
      }
      heads.forEach((head, i) => {
        if (i === state.column && state.sign) head.setAttribute("aria-sort", state.sign > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
    };
    const sort = (column) => {
      const signs = column ? [0, -1, 1] : [0, 1, -1]; // numbers from high to low first, names from A to Z
      const next = column === state.column ? signs[(signs.indexOf(state.sign) + 1) % 3] : signs[1];
      Object.assign(state, { column, sign: next });
      apply();
      const how = next ? `${next > 0 ? "ascending" : "descending"} by ${heads[column].textContent}` : "in its own order";
      byId("status").textContent = `Table sorted ${how}`;
    };
    heads.forEach((head, column) => {
      const made = element("button", head.textContent);
      made.type = "button";
      made.addEventListener("click", () => sort(column));
      head.replaceChildren(made);
    });
    if (groups.length > 1) {
      const label = element("label", undefined, "together");
      const box = element("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => { state.together = box.checked; apply(); });
      label.append(box, " keep budgets together when sorting");
      table.parentElement.before(label);
    }
    navigate(table);
  };
  const stop = (cell) => cell.querySelector("button") ?? cell;
  const navigate = (table) => {
    table.setAttribute("role", "grid");
    const rows = () => [...table.rows].filter((row) => !row.classList.contains("group"));
    const visible = (row) => [...row.cells].filter((cell) => cell.offsetParent !== null);
    for (const row of rows()) for (const cell of row.cells) stop(cell).tabIndex = -1;
    let current = stop(table.tHead.rows[0].cells[0]);
    current.tabIndex = 0;
    table.addEventListener("focusin", (event) => {
      const cell = event.target.closest("th, td");
      if (!cell || cell.parentElement.classList.contains("group")) return;
      current.tabIndex = -1;
      current = stop(cell);
      current.tabIndex = 0;
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("th, td");
      if (!cell) return;
      const all = rows();
      const row = all.indexOf(cell.parentElement);
      const column = visible(cell.parentElement).indexOf(cell);
      const last = visible(all[0]).length - 1;
      const moves = {
        ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
        Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? all.length - 1 : row, last],
      };
      const to = moves[event.key];
      if (!to) return;
      event.preventDefault();
      const target = visible(all[Math.max(0, Math.min(to[0], all.length - 1))])[Math.max(0, Math.min(to[1], last))];
      stop(target).focus();
    });
  };
  for (const table of document.querySelectorAll("table.results")) prepare(table);
})();
