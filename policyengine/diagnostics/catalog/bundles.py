"""E16x: compiled policies in bundles, and the keys that sign them."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E160",
        "no bundle",
        "A bundle is what `policyengine compile` writes. Policies themselves, files that end in `.policy`, are loaded "
        "as they are.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E161",
        "a bundle of another version",
        "A bundle holds rules as one version of policyengine stores them, and is read by versions that store them "
        "alike. Compile the policy again with the version that loads it: what it decides stays the same.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E162",
        "a damaged bundle",
        "The digest in a bundle is not the one of its bytes: it was cut off or changed on its way. Copy it again.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E163",
        "a bundle that nobody trusted signed",
        "Whoever loads a bundle with keys accepts only what one of these keys signed. Sign it by "
        "`policyengine compile … --key private.pem`, or trust the key of whoever did.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E164",
        "a key that cannot be used",
        "Bundles are signed with Ed25519 keys: a private one in PEM signs, a public one in PEM or base64url is "
        "trusted. Both need the package `cryptography`, which the extra `sign` brings.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E165",
        "a bundle that holds what no policy compiles to",
        "Everything in a bundle is checked before it is used. This one is undamaged and yet holds something that the "
        "compiler never writes, so it was made or changed by something else. Nothing is decided by it.",
        "",
        "",
    ),
    DiagnosticDoc("E166", "a bundle that is too large", "A bundle has a thousand million bytes at most.", "", ""),
)
