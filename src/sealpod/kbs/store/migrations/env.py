# SPDX-License-Identifier: Apache-2.0
"""Alembic's hook: run the revisions on the connection that :mod:`sealpod.kbs.store.migrate` opened."""

from alembic import context

from sealpod.kbs.store.layout import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=None,
)
with context.begin_transaction():
    context.run_migrations()
