"""`policyengine behavior`: what is learned of callers."""
