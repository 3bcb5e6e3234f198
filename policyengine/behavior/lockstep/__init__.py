"""Finds groups of callers that move as one: callers with one owner that run one workflow on one clock.

Four kinds of groups are not found: callers that start more than about half a minute apart, that follow a schedule (they
look like any scheduled job), that move together in less than a fifth of their runs, or that are active all the time, so
that most of their runs coincide with runs of any other caller. More than 60 callers that start the same run in the same
minute are not a group but a crowd.
"""
