"""Tokens and API keys: parsed, verified, and read to claims."""
