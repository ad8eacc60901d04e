"""The coordinator's word that a run is its own: without it, whoever reached the SuperLink could burn budgets.

A warrant is an Ed25519 signature over study and run. It rides in every request that costs a site anything.
"""

import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.digest import canonical_json
from protocol.errors import ApprovalError, WireError

NO_WARRANT = "0" * 128
"""What a request carries where the study was approved without a signature, as in simulations."""
_DOMAIN = b"cloister warrant v1\0"
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_REMEDY = "Let the coordinator start the run with `cloister coordinator run`."


def warrant_of(key: Ed25519PrivateKey, *, study: str, run: str) -> str:
    """Vouch for a run.

    Args:
        key: The coordinator's.
        study: Hash of the study, 64 hexadecimal digits.
        run: Identifier of the run, 64 hexadecimal digits.

    Returns:
        The warrant, 128 hexadecimal digits; the same for the same run.

    Raises:
        WireError: If study or run is malformed.
    """
    return key.sign(_vouched(study=study, run=run)).hex()


def check_warrant(warrant: str, *, coordinator: str, study: str, run: str) -> None:
    """Refuse a run that the coordinator did not vouch for.

    Args:
        warrant: What the request carries.
        coordinator: The coordinator's public key as the site knows it, 64 hexadecimal digits.
        study: Hash of the study.
        run: Identifier of the run.

    Raises:
        ApprovalError: If the warrant is missing, another's, or of another study or run.
        WireError: If study or run is malformed.
    """
    vouched = _vouched(study=study, run=run)
    if warrant == NO_WARRANT:
        raise ApprovalError(f"The run {run[:16]} has no warrant.", remedy=_REMEDY)
    try:
        if not _SIGNATURE.fullmatch(warrant):
            raise ApprovalError(f"The warrant of run {run[:16]} is malformed.", remedy=_REMEDY)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(coordinator)).verify(bytes.fromhex(warrant), vouched)
    except (InvalidSignature, ValueError) as error:
        raise ApprovalError(f"The coordinator did not vouch for run {run[:16]}.", remedy=_REMEDY) from error


def _vouched(*, study: str, run: str) -> bytes:
    """Return what the coordinator signs; the label keeps it from meaning anything elsewhere."""
    for name, value in (("study", study), ("run", run)):
        if not _HEX.fullmatch(value):
            raise WireError(f"A warrant's {name} is malformed.", remedy="Both ends must run the same Cloister.")
    return _DOMAIN + canonical_json({"study": study, "run": run})
