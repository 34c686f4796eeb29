"""Style sheet and script of the report's page; the page loads nothing from anywhere."""

__all__ = ["PAGE", "SCRIPT", "STYLE_SHEET"]

STYLE_SHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f5f6f8; --ink: #1d2126; --soft: #545c66; --line: #d5d9df;
  --gray: #8b929c; --blue: #2367ab; --orange: #c4601a; --green: #2b8555; --purple: #8256ab;
  --ok: #2b8555; --warn: #a86a00; --fail: #b3352b; --unknown: #69707a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --card: #1f2329; --ink: #e6e9ed; --soft: #a7aeb8; --line: #39404a;
    --gray: #8b929c; --blue: #6fb1ee; --orange: #ef9d5b; --green: #64c394; --purple: #c09be6;
    --ok: #64c394; --warn: #e5b04c; --fail: #f0827a; --unknown: #a0a7b1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 1rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem;
     border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, figcaption, .note { color: var(--soft); font-size: .92rem; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 1rem 0 0; font-size: .92rem; }
nav a { color: var(--blue); padding: .25rem 0; }
.verdicts { display: grid; gap: .7rem; margin: 1rem 0 0; padding: 0; list-style: none;
            grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.verdict { background: var(--card); border-left: .4rem solid var(--level); border-radius: .4rem;
           padding: .6rem .8rem; }
.verdict .question { color: var(--soft); font-size: .88rem; }
.verdict .headline { font-weight: 650; font-size: 1.08rem; }
.verdict .mark { color: var(--level); }
.verdict .reason { font-size: .9rem; margin: .25rem 0 0; }
.ok { --level: var(--ok); } .warn { --level: var(--warn); } .fail { --level: var(--fail); }
.unknown { --level: var(--unknown); }
.body { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; align-items: flex-start; }
.body > * { min-width: 0; max-width: 100%; }
.body > p, .body > pre { flex: 0 0 100%; }
figure { flex: 1 1 20rem; margin: .6rem 0; max-width: min(30rem, 100%) !important; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, sans-serif !important; }
figcaption b { color: var(--ink); }
.scroll { overflow-x: auto; margin: .3rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child, .text { text-align: left; }
td.long { white-space: normal; min-width: 13rem; }
tbody tr { border-top: 1px solid var(--line); }
tbody tr:hover { background: var(--card); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--blue); }
th button::after { content: "\\2195"; color: var(--line); font-size: .8em; padding-left: .2rem; }
th button:hover::after { color: var(--ink); }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--ink); }
@media (max-width: 40rem) { td.long { white-space: nowrap; } th { white-space: normal; } }
summary { font-weight: 650; cursor: pointer; margin: 1.4rem 0 .3rem; }
pre { background: var(--card); padding: .8rem; border-radius: .4rem;
      font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

SCRIPT = """
for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const head = button.parentElement, row = head.parentElement;
    const body = row.closest('table').tBodies[0], index = [...row.cells].indexOf(head);
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const cell of row.cells) cell.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = (line) => line.cells[index].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === '' || y === '') return (x === '') - (y === '');
      const gap = Number(x) - Number(y);
      const sign = Number.isNaN(gap) ? x.localeCompare(y) : gap;
      return down ? -sign : sign;
    };
    body.append(...[...body.rows].sort(order));
  });
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p class="soft">{subtitle}</p></header>
<ul class="verdicts">{verdicts}</ul>
<nav aria-label="Sections">{links}</nav>
<main>{sections}</main>
<script>{script}</script>
</body>
</html>
"""
