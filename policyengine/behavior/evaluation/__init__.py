"""Measures how well learned facts distinguish abusive runs from normal runs: traffic, labels, scores and figures."""
