"""The claim on a rollout, looked at in the transaction that writes what was concluded under it."""

from typing import Final

from sqlalchemy import bindparam, select

from opencode_lifecycle.adapters.database.tables import rollouts
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.ports.rollouts import ClaimedRollout

_CLAIM: Final = select(rollouts.c.claim_token, rollouts.c.version).where(rollouts.c.id == bindparam("which"))


def check_claim(transaction: Transaction, claimed: ClaimedRollout) -> None:
    """
    Raise `ClaimLost` when the claim is another's, or somebody has changed the rollout.

    Transactions take turns, so between this and the commit nobody else claims or changes it.
    """
    rows = transaction.read(_CLAIM, {"which": claimed.rollout.id})
    if not rows or rows[0]["claim_token"] != claimed.token:
        raise ClaimLost("Another replica drives the rollout now.")
    if rows[0]["version"] != claimed.rollout.version:
        raise ClaimLost("Somebody has changed the rollout since it was read.")
