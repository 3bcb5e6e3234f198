"""The checks of `policyengine doctor`."""
