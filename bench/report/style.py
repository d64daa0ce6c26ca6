"""The report's style sheet: one column of cards, light and dark, from phone to desk; no font or file from outside."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1b1d20; --muted: #5c636b; --line: #dddcd6;
  --dense: #b34700; --slim: #0067a5; --ideal: #767c83; --good: #12704a; --bad: #b3261e; --tint: #e8f1f7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131519; --card: #1b1e24; --ink: #eceae4; --muted: #a4abb3; --line: #353a42;
    --dense: #ff9d5c; --slim: #6cbcf0; --ideal: #9aa1a9; --good: #6fd3a5; --bad: #ff8a80; --tint: #1d2c38;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: clamp(20px, 5vw, 56px) clamp(14px, 4vw, 36px); }
header { margin-bottom: 30px; }
.eyebrow { margin: 0 0 10px; color: var(--slim); font-weight: 650; letter-spacing: .02em; }
h1 {
  margin: 0; max-width: 24ch; font-size: clamp(1.9rem, 5.2vw, 3.3rem); line-height: 1.1; letter-spacing: -.02em;
  font-weight: 720; text-wrap: balance;
}
.subline { max-width: 68ch; margin: 16px 0 0; color: var(--muted); font-size: 1.06rem; }
h2 { margin: 0 0 4px; font-size: 1.3rem; letter-spacing: -.01em; line-height: 1.25; }
h3 { margin: 26px 0 6px; font-size: 1rem; }
p { margin: 0 0 12px; }
.hint { color: var(--muted); max-width: 76ch; font-size: .95rem; }
section, .figures { margin: 0 0 20px; }
section {
  background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; padding: clamp(16px, 3vw, 28px);
}
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 20px; margin-bottom: 20px;
}
.pair section { margin: 0; } section + section { margin-top: 20px; } .pair section + section { margin-top: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px 18px; }
.figure b { display: block; font-size: 1.75rem; line-height: 1.15; letter-spacing: -.02em; font-weight: 700; }
.figure.main { background: var(--tint); border-color: var(--slim); }
.figure.main b { color: var(--slim); }
.figure span { color: var(--muted); font-size: .88rem; line-height: 1.35; display: block; margin-top: 4px; }
.scroll { overflow-x: auto; margin: 8px 0 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th { text-align: left; color: var(--muted); font-weight: 600; font-size: .84rem; vertical-align: bottom; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
td.wrap { white-space: normal; min-width: 22ch; overflow-wrap: anywhere; }
.n { text-align: right; }
tr.best td { background: var(--tint); }
tr.best td:first-child { box-shadow: -8px 0 0 var(--tint); font-weight: 650; }
small { color: var(--muted); font-size: .84rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.key {
  display: inline-block; width: .8em; height: .8em;
  border-radius: 3px; margin-right: .4em; vertical-align: -.05em;
}
.key.dense { background: var(--dense); transform: rotate(45deg) scale(.85); border-radius: 1px; }
.key.slim { background: var(--slim); border-radius: 50%; }
.chart { display: block; width: 100%; max-width: 620px; height: auto; margin-top: 8px; overflow: visible; }
.chart text { font-family: inherit; }
.wide .chart { width: max(100%, var(--natural)); max-width: none; }
.bars {
  display: grid; grid-template-columns: minmax(5em, auto) 1fr; gap: 6px 14px;
  align-items: center; margin-top: 14px;
}
.bars .name { font-size: .93rem; overflow-wrap: anywhere; max-width: 16em; }
.bar {
  display: flex; align-items: center; gap: 8px;
  font-size: .84rem; font-variant-numeric: tabular-nums; margin: 2px 0;
}
.bar i { display: block; height: 11px; border-radius: 3px; background: var(--slim); min-width: 2px; }
.bar.base i { background: var(--dense); }
.bar span { white-space: nowrap; }
.scene + .scene { margin-top: 34px; padding-top: 28px; border-top: 1px solid var(--line); }
.top {
  display: grid; grid-template-columns: minmax(220px, 340px) 1fr; gap: 12px 32px;
  align-items: start; margin-top: 14px;
}
.strip { margin-top: 18px; } .top .strip:first-child { margin-top: 0; } .top h3 { margin-top: 0; }
.cells { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 8px; }
.cells.lists { gap: 26px; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figure img.pixels { image-rendering: pixelated; }
figcaption, .label { color: var(--muted); font-size: .84rem; margin-top: 4px; overflow-wrap: anywhere; }
.share {
  display: flex; justify-content: space-between; gap: 8px;
  font-size: .88rem; font-variant-numeric: tabular-nums;
}
.share span { overflow: hidden; text-overflow: ellipsis; }
.share.low { color: var(--muted); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin-top: 6px; font-size: .84rem; color: var(--muted); }
.ramp { height: 9px; border-radius: 3px; margin-top: 8px; }
.ends { display: flex; justify-content: space-between; font-size: .84rem; color: var(--muted); }
dl { display: grid; grid-template-columns: minmax(7em, auto) 1fr; gap: 4px 20px; margin: 10px 0 0; font-size: .93rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre {
  margin: 8px 0 12px; padding: 12px 14px; overflow-x: auto;
  background: var(--page); border: 1px solid var(--line); border-radius: 8px;
}
code, pre { font: .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--slim); margin-top: 14px; }
summary:focus-visible { outline: 2px solid var(--slim); outline-offset: 3px; border-radius: 3px; }
ul { margin: 10px 0 0; padding-left: 1.2em; } li { margin: 4px 0; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: .88rem; margin-top: 28px; }
@media (max-width: 640px) {
  .figures { grid-template-columns: 1fr 1fr; }
  .figure { padding: 12px 14px; } .figure b { font-size: 1.4rem; }
  .top { grid-template-columns: 1fr; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print { body { background: #fff; } section, .figure { break-inside: avoid; } }
"""
