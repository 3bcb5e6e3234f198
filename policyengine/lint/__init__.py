"""What is allowed and probably not meant: `findings` for every check, `opinions` for `policyengine lint` besides."""

from policyengine.lint.findings import findings as findings
from policyengine.lint.findings import mistakes as mistakes
from policyengine.lint.opinions import opinions as opinions
