"""Benchmarks of policyengine next to the fastest hand-written Python and next to peer engines, in one run on one
machine."""
