"""Finds groups of callers that move as one: callers with one owner that run one workflow on one clock."""
