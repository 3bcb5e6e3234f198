"""What is allowed and probably not meant: `findings` for every check, `opinions` for `policyengine lint` besides."""

from policyengine.lint.opinions import opinions as opinions
from policyengine.lint.policy_mistakes import probable_mistakes as probable_mistakes
from policyengine.lint.policy_mistakes import wrong_tests as wrong_tests
