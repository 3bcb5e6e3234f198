"""How the pages of coverage look: in light and dark, on a screen of any width, on paper; never by colour alone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #5c636e; --paper: #fff; --edge: #d5d8dc; --code: #f6f7f9;
  --link: #0b57d0; --good: #d7f2dc; --good-ink: #14652a; --some: #fdecc0; --some-ink: #7a4d00; --bad: #fbd9d6;
  --bad-ink: #a1201a; --here: #cfe2ff }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6eb; --dim: #9aa3b0; --paper: #16181c; --edge: #3a3f47;
  --code: #1d2025; --link: #8ab4f8; --good: #17351f; --good-ink: #7fd694; --some: #463708; --some-ink: #f2c65a;
  --bad: #4f1f1d; --bad-ink: #ff9a92; --here: #223a5e } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 90rem; color: var(--ink);
  background: var(--paper) }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; overflow-wrap: anywhere }
p { margin: .25rem 0 1rem }
a { color: var(--link) }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 2px }
.skip { position: absolute; left: -100rem }
.skip:focus { position: static }
.dim { color: var(--dim) }
table { border-collapse: collapse; width: 100%; max-width: 50rem }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--edge); font-weight: 400;
  overflow-wrap: anywhere }
thead th { color: var(--dim); font-size: .875rem }
td.number, th.number { width: 6.5rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
tr > :last-child { width: 9rem }
.bar { display: block; width: 8rem; height: .6rem; border-radius: .3rem; background: var(--bad); overflow: hidden;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
.bar > span { display: block; height: 100%; background: var(--good-ink) }
ul.missing { list-style: none; margin: 0; padding: 0; font-size: .9rem }
ul.missing a { display: block; padding: .35rem .5rem; border-left: 3px solid var(--bad-ink); margin-bottom: .35rem;
  text-decoration: none; color: inherit; background: var(--code); overflow-wrap: anywhere }
ul.missing a:hover { text-decoration: underline }
ul.missing b { color: var(--dim); font-weight: 400; font-variant-numeric: tabular-nums; margin-right: .4rem }
code { font: .85rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
.file { display: grid; grid-template-columns: minmax(0, 1fr) 22rem; gap: 1.5rem; align-items: start }
.file aside { position: sticky; top: 1rem; max-height: calc(100vh - 2rem); overflow-y: auto }
.file aside h2 { margin-top: 0 }
.source { background: var(--code); border: 1px solid var(--edge); border-radius: 6px; padding: .5rem 0 }
.line { display: grid; grid-template-columns: 3.2rem minmax(0, 1fr) 3.6rem; padding: 0 .5rem; scroll-margin-top: 4rem }
.line > a { color: var(--dim); text-align: right; padding-right: .9rem; text-decoration: none; font-size: .8rem;
  line-height: 1.7; user-select: none }
.line > code { white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 2 }
.line > small { text-align: right; color: var(--dim); font-size: .75rem; line-height: 1.8; user-select: none }
.covered { background: var(--good) }
.partly { background: var(--some); text-decoration: underline dotted 2px var(--some-ink); text-underline-offset: 3px }
.uncovered { background: var(--bad); text-decoration: underline wavy 1px var(--bad-ink); text-underline-offset: 3px }
.covered, .partly, .uncovered { border-radius: 2px; color: inherit; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
.note { margin: .1rem .5rem .35rem 3.7rem; padding: .15rem .6rem; border-left: 3px solid var(--bad-ink);
  font-size: .875rem; overflow-wrap: anywhere; scroll-margin-top: 6rem }
.note a { font-size: .8rem; margin-left: .4rem; white-space: nowrap }
.note:target, .line:target { background: var(--here) }
.key span { padding: .1rem .4rem; margin-right: .5rem; white-space: nowrap }
.odd { border: 1px solid var(--bad-ink); border-radius: 3px; padding: 0 .2rem; font-size: .75em; color: var(--bad-ink) }
@media (max-width: 62rem) {
  .file { grid-template-columns: minmax(0, 1fr) }
  .file aside { position: static; max-height: none; order: -1 }
}
@media (max-width: 34rem) {
  body { padding: 1rem .6rem }
  th, td { padding-right: .5rem }
  td.number, th.number { width: 4rem }
  tr > :last-child { width: 3.5rem }
  .bar { width: 3rem }
  .line { grid-template-columns: 2rem minmax(0, 1fr) 2.4rem; padding: 0 .25rem }
  .line > a { padding-right: .4rem; font-size: .7rem; line-height: 1.9 }
  .line > code { font-size: .78rem }
  .line > small { font-size: .65rem; line-height: 2 }
  .note { margin-left: 2.2rem }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  .file { display: block }
  .file aside { position: static; max-height: none; overflow: visible; margin-top: 1rem }
  .line, .note { break-inside: avoid }
  .note a, .skip { display: none }
}
"""
