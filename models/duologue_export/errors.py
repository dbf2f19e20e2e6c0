"""The one exception that a user is expected to read: it says what was wrong, where, and what to do."""


class ExportError(Exception):
    """Bad input or an impossible request (missing tensor, wrong shape, newer vocoder, full disk)."""
