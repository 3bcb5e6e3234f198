"""Signs people in with OpenID Connect: the authorization code flow with PKCE, state and nonce, at an issuer of the
policy."""
