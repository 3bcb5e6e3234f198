"""`policyengine behavior`: what is learned about callers."""
