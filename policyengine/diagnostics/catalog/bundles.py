"""E16x: bundles of compiled policies, and the keys that sign them."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E160",
        "not a bundle",
        "`policyengine compile` writes bundles. Files that end in `.policy` are policies, which are loaded directly.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E161",
        "a bundle from another version",
        "A bundle stores rules in the format of one version of policyengine, and only versions with that format can "
        "read the bundle. Compile the policy again with the version that loads the bundle; the decisions stay the "
        "same.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E162",
        "a corrupted bundle",
        "The digest in the bundle does not match its bytes: the file was truncated or changed. Copy the file again.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E163",
        "a bundle without a trusted signature",
        "An engine that loads bundles with trusted keys accepts only bundles that one of these keys signed. Sign the "
        "bundle with `policyengine compile … --key private.pem`, or add the public key of the signer to the trusted "
        "keys.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E164",
        "a key that cannot be used",
        "Bundles are signed with Ed25519 keys: a private key in PEM signs, and a public key in PEM or base64url "
        "verifies. Both need the package `cryptography`, which the extra `sign` installs.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E165",
        "a bundle with invalid contents",
        "Every part of a bundle is checked before it is used. This bundle is intact but contains something that the "
        "compiler never writes, so another program made or changed it. The engine refuses to load the bundle, or to "
        "use the invalid part. `policyengine compile BUNDLE --verify` reads every part.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E166", "a bundle that is too large", "A bundle may have at most 1,073,741,824 bytes (1 GiB).", "", ""
    ),
)
