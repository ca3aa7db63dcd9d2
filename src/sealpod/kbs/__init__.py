# SPDX-License-Identifier: Apache-2.0
"""The key broker: which launch may have which secret.

``core`` decides and assembles (bytes and values only), ``store`` keeps the records in a SQL database,
``admin`` says what the key owner manages, ``server`` speaks gRPC. The interface and the tables are those of
simple-kbs.
"""
