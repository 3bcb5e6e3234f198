"""The OpenID AuthZEN Authorization API."""
