"""`policyengine audit`: verify, prove and query decision logs."""
