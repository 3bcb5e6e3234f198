"""Honest figures: policyengine beside the best hand-written Python and beside its peers, in one run, on one machine."""
