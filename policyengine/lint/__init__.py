"""Lints checked policies: `probable_mistakes` runs in every check, `opinions` only in `policyengine lint`."""

from policyengine.lint.opinions import opinions as opinions
from policyengine.lint.policy_mistakes import probable_mistakes as probable_mistakes
from policyengine.lint.policy_mistakes import wrong_tests as wrong_tests
