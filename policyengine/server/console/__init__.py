"""The console: pages for people who watch the decisions, on a listener of their own. `docs/console.md` describes it for
operators. `pages/` has one module for each page; `pages/table.py` lists them.
"""
