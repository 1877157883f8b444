"""Work leases, in the row that the stop of the runtime is written to as well."""

from dataclasses import replace
from datetime import datetime

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.stack_rows import stack_of
from opencode_lifecycle.adapters.database.stack_statements import UPDATE_STACK, stack_row
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import StackNotFound
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.lease import leased
from opencode_lifecycle.model.stack import Stack


class LeaseRows(Store):
    async def extend_lease(self, user_id: UserId, until: datetime) -> Stack:
        def extend(transaction: Transaction) -> Stack:
            row = stack_row(transaction, user_id)
            if row is None:
                raise StackNotFound(user_id=user_id)
            before = stack_of(row)
            stack = leased(before, until)
            if stack.busy_until == before.busy_until:
                return stack
            stack = replace(stack, change_seq=transaction.next_change())
            values = {"busy_until": stack.busy_until, "change_seq": stack.change_seq}
            transaction.write(UPDATE_STACK, {"whose": user_id, **values})
            return stack

        return await self._write("extend a lease", extend)
