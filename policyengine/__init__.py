"""policyengine: decides which AI agent may do what, for whom, through whom and under which conditions."""

__version__ = "0.1.0"
