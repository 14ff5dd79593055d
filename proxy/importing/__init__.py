"""Makes entries of what LangChain's SQLite cache holds."""

from proxy.importing.importer import Importer, Summary
from proxy.importing.rows import Row, count_rows, read_rows

__all__ = ["Importer", "Row", "Summary", "count_rows", "read_rows"]
