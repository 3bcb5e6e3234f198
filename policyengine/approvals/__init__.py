"""Approvals: requests that wait for a person, who answered them, and who may."""
