"""What is allowed and probably not meant: `findings` for every check, `opinions` for `policyengine lint` besides."""

from policyengine.semantics.lints.findings import findings as findings
from policyengine.semantics.lints.findings import mistakes as mistakes
from policyengine.semantics.lints.opinions import opinions as opinions
