"""Sinks of the decision log, against receivers that check every byte."""
