"""Tokens and API keys: parsed, verified, and turned into claims."""
