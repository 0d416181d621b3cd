"""The style sheet of the page. Its colours are told apart by those who do not see all of them, and hold a contrast of 3:1
(lines) or 4.5:1 (text) against the paper, in light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f6f7f9; --ink: #1b2129; --soft: #5a6572; --line: #dfe3e8;
  --good: #0b6b4f; --bad: #b3261e; --fault: #b3261e; --other: #8b96a3;
  --series-1: #0b62b0; --series-2: #c2520a; --series-3: #00805f; --series-4: #94448c; --series-5: #8f6a00;
  --series-6: #47515c;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --raised: #1c2229; --ink: #e6eaef; --soft: #a2adb9; --line: #323a44;
    --good: #4cc79b; --bad: #ff8a80; --fault: #ff8a80; --other: #76828f;
    --series-1: #5cb3f2; --series-2: #f59a57; --series-3: #35c598; --series-4: #dc97d2; --series-5: #e0b84a;
    --series-6: #c3ccd6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 6px; }
h2 { font-size: 18px; line-height: 1.3; font-weight: 650; margin: 0 0 12px; }
section { margin-top: 44px; }
.lead { margin: 0; color: var(--soft); }
.verdict { margin: 14px 0 0; font-weight: 600; }
.verdict.good { color: var(--good); }
.verdict.bad { color: var(--bad); }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px; margin: 28px 0 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.figures div { background: var(--paper); padding: 14px 16px; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 2px 0 0; font-size: 26px; line-height: 1.2; font-weight: 600; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.figures small { font-size: 13px; font-weight: 400; color: var(--soft); }

.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 32px 40px; }
.plots + .plots { margin-top: 32px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure h3 { font-size: 15px; font-weight: 600; margin: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; stroke-linejoin: round;
  font-variant-numeric: tabular-nums; }
figure > svg { max-width: 640px; margin-top: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; list-style: none; margin: 2px 0 0; padding: 0; min-height: 20px;
  color: var(--soft); font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { width: 24px; height: 10px; flex: none; }

.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 0 40px; }
.tables section { min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 560px); font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 28px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; white-space: nowrap; }
thead small { display: block; font-size: 12px; font-weight: 400; }
tbody th { font-weight: 500; }
td { white-space: nowrap; }
.wide { width: 100%; }
.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 5em; }
.wide tbody th { min-width: 7.5em; overflow-wrap: anywhere; }
.wide td.words { white-space: nowrap; }
.wide th:not(:first-child), .wide td { padding-left: 16px; }
.facts tbody th { color: var(--soft); font-weight: 400; white-space: nowrap; }
.facts td { white-space: normal; overflow-wrap: anywhere; min-width: 12.5em; }
tr.good td:last-child { color: var(--good); font-weight: 600; }
tr.bad td:last-child, .facts tr.bad td { color: var(--bad); font-weight: 600; }
tr.other td { background: var(--raised); }
.note { color: var(--soft); font-size: 13px; margin: 10px 0 0; }

@media (max-width: 600px) {
  main { padding: 24px 16px 48px; }
  .figures { grid-template-columns: repeat(2, 1fr); }
  .figures dd { font-size: 22px; }
  th, td { padding-left: 14px; }
  .facts tbody th { white-space: normal; min-width: 7em; }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  section { margin-top: 24px; }
  .plots { grid-template-columns: 1fr 1fr; gap: 20px 24px; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td { padding-left: 8px; }
}
"""
