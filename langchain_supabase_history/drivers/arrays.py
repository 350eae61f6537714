"""Arrays in PostgreSQL's binary form. psycopg's own way to write one took 6 s for 12 MB, and makes the server cast."""

from __future__ import annotations

import struct
import uuid
from typing import Any, ClassVar, Final, Self

import psycopg
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

from ..core.call import Json


class Array(list[bytes]):
    """An array's elements, encoded. The oids are those of `pg_type`."""

    oid: ClassVar[int]
    element_oid: ClassVar[int]

    @classmethod
    def of(cls, values: list[Any]) -> Self:
        return cls(map(cls.encode, values))

    @staticmethod
    def encode(value: Any) -> bytes:
        raise AssertionError("each kind's own")


class _Text(Array):
    oid, element_oid = 1009, 25

    @staticmethod
    def encode(value: str) -> bytes:
        return value.encode()


class _Json(Array):
    oid, element_oid = 199, 114

    @staticmethod
    def encode(value: Json) -> bytes:
        return value.text


class _Uuid(Array):
    oid, element_oid = 2951, 2950

    @staticmethod
    def encode(value: uuid.UUID | str) -> bytes:
        return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).bytes


class _Integer(Array):
    oid, element_oid = 1007, 23

    @staticmethod
    def encode(value: int) -> bytes:
        return struct.pack("!i", value)


class _Dumper(Dumper):
    format = Format.BINARY

    def __init__(self, cls: type[Array], context: Any = None) -> None:
        super().__init__(cls, context)
        self.oid = cls.oid

    def dump(self, obj: Array) -> bytes:
        parts = [struct.pack("!iiIii", bool(obj), 0, obj.element_oid, len(obj), 1)[: None if obj else 12]]
        for element in obj:
            parts += (struct.pack("!i", len(element)), element)
        return b"".join(parts)


ARRAYS: Final[dict[str, type[Array]]] = {"text[]": _Text, "json[]": _Json, "uuid[]": _Uuid, "integer[]": _Integer}


def register_dumpers(adapters: AdaptersMap) -> None:
    """Let the connections or cursors of this map write arrays in this form."""
    for array in ARRAYS.values():
        adapters.register_dumper(array, _Dumper)


register_dumpers(psycopg.adapters)
