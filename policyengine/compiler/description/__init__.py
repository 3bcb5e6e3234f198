"""Descriptions of the program of a policy: its rules at each endpoint, as data and as text, with their
source places.
"""
