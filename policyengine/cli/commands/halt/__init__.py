"""The commands of `policyengine halt`: each halts requests, lists halts or lifts them."""
