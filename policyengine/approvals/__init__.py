"""Approvals: requests that wait for a person, the people who answered them, and the people who may answer."""
