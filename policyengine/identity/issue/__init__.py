"""Tokens issued by this server: RFC 8693 token exchange, limited by the policy's delegation rules."""
