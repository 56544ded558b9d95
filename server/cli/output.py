"""What commands print, from where every part has it."""

from __future__ import annotations

from tacit.printing import Format, cell, format_option, print_fields, print_json, print_table

__all__ = ["Format", "cell", "format_option", "print_fields", "print_json", "print_table"]
