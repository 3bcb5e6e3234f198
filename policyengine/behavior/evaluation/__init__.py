"""How well learned facts tell abusive runs from normal ones: traffic, labels, a score for each fact, and figures."""
