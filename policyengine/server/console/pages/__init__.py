"""The pages of the console, one module each. `table.py` lists them; a page for a new purpose is a module here, a
template, and a row in the table.
"""
