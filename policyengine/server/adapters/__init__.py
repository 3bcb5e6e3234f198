"""Adapters for gateways: forward authentication and Envoy's ext_authz."""
