# SPDX-License-Identifier: Apache-2.0
"""Alembic's migrations, run by :mod:`sealpod.kbs.store.migrate` and never by hand.

A revision says what the tables were at its time and imports none of the present schema. It looks before it
makes or drops a table: MySQL commits every such statement at once, so a migration that was interrupted is
simply run again.
"""
