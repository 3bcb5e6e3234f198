"""Tokens issued by this server: RFC 8693 token exchange, bounded by the policy's delegation rules."""
