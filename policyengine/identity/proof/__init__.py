"""Proofs that a credential belongs to its presenter: DPoP, certificates, message signatures."""
