# SPDX-License-Identifier: Apache-2.0
"""``SecretBytes``: key material that does not show itself.

A secret's text form is fixed, it cannot be pickled or formatted into a message by accident, and comparing
two takes the same time whatever they hold. The value leaves only through :meth:`SecretBytes.reveal`, so
that a reader can search the code for every place where a secret becomes plain bytes.
"""

from __future__ import annotations

from typing import NoReturn, final


@final
class SecretBytes:
    """Immutable secret bytes.

    >>> SecretBytes(b"key")
    SecretBytes(3 bytes)
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The plain bytes. Each call site is a place where a secret is handled."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        """Constant-time comparison; only another secret can be equal."""
        if not isinstance(other, SecretBytes):
            return NotImplemented
        from cryptography.hazmat.primitives.constant_time import bytes_eq

        return bytes_eq(self._value, other._value)

    # A hash would have to depend on the value, and dict lookups are not constant-time.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SecretBytes({len(self._value)} bytes)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("SecretBytes cannot be pickled")
