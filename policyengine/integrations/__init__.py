"""Policies inside of other frameworks: thin layers that ask before something runs, and let nothing through in doubt."""
