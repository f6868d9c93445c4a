"""A report as one page for a browser: no network, no other file, sortable and searchable."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from vsbox.guard.records import Record, Records, advice
from vsbox.plan.steps import printable

COLUMNS: Final = ("package", "when", "verdict", "what", "target", "at", "by way of", "what would allow it")
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE: Final = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --strong: #c22; }
@media (prefers-color-scheme: dark) { :root { --strong: #f77; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem; max-width: 90rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; }
p { margin: .2rem 0 1rem; opacity: .75; }
input { font: inherit; width: min(30rem, 100%); padding: .4rem .6rem; margin: 0 .5rem; }
input { border: 1px solid var(--line); border-radius: .4rem; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button:focus-visible, input:focus-visible { outline: 2px solid Highlight; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { overflow-wrap: anywhere; }
td:first-child { font-weight: 600; }
td:nth-child(-n+4) { white-space: nowrap; }
tr.denied td:nth-child(5), tr.denied td:nth-child(3) { color: var(--strong); }
tr.allowed td:not(:first-child) { opacity: .7; }
td:nth-child(n+5) { font-family: ui-monospace, monospace; font-size: .87em; }
tbody tr:hover { background: var(--soft); }
"""
SCRIPT: Final = """\
const body = document.querySelector("tbody");
const search = document.querySelector("input");
const count = document.querySelector("output");
const show = () => {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.value = `${shown} of ${body.rows.length}`;
};
search.addEventListener("input", show);
document.querySelectorAll("th").forEach((head, column) => head.firstChild.addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  document.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const sign = down ? -1 : 1;
  const text = (row) => row.cells[column].textContent;
  body.append(...[...body.rows].sort((a, b) => sign * text(a).localeCompare(text(b))));
}));
show();
"""


def _cells(record: Record, box: str) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.time))
    through = ", ".join(record.chain[1:])
    name = record.distribution or "your code"
    where = record.where or record.program
    return name, when, record.verdict, record.operation, record.target, where, through, advice(record, box)


def _row(record: Record, box: str) -> str:
    kind = "allowed" if record.verdict == "allowed" else "denied"
    cells = "".join(f"<td>{html.escape(printable(cell))}</td>" for cell in _cells(record, box))
    return f'<tr class="{kind}">{cells}</tr>'


def _summary(found: Records) -> str:
    denied = [record for record in found.records if record.verdict != "allowed"]
    counts = Counter(record.distribution or "your code" for record in denied)
    parts = [f"{name}: {number}" for name, number in counts.most_common(12)]
    return "; ".join(parts) if parts else "nothing was denied"


def _watched(runs: Sequence[tuple[float, str, str]]) -> str:
    if not runs:
        return "No run was watched: what programs other than Python were denied is not listed."
    times = [time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) for at, _, _ in runs]
    parts = [f"{command} ({when}, mode {mode})" for when, (_, command, mode) in zip(times, runs, strict=True)]
    return f"Watched with all that they started: {', '.join(parts)}."


def render_page(box: str, found: Records, runs: Sequence[tuple[float, str, str]] = ()) -> str:
    """Return the page; ``runs``: when each was started, the command, the mode.

    Whatever code inside has written is text in it and nothing else.
    """
    heads = "".join(f'<th scope="col"><button type="button">{html.escape(column)}</button></th>' for column in COLUMNS)
    rows = "\n".join(_row(record, box) for record in found.records)
    title = html.escape(f"Report of {printable(box)}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>Denied: {html.escape(printable(_summary(found)))}. Times are UTC.
{html.escape(printable(_watched(runs)))}</p>
<label>Search <input type="search" autofocus></label> <output></output>
<div class="scroll">
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<script>
{SCRIPT}</script>
</body>
</html>
"""
