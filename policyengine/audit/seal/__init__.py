"""Seals a log: its lines become the entries of a transparency log, a Merkle tree with signed checkpoints in the formats
of C2SP (`tlog-tiles`, `tlog-checkpoint`, `signed-note`, `tlog-proof`). The entry of a line is its SHA-256 digest.
"""
