"""An engine that trusts its callers with approvals, for tests of what an approval binds."""

from policyengine.approvals.settings import ApprovalSettings

TRUSTING = ApprovalSettings(trust_callers=True)
