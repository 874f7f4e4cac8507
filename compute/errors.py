"""The one exception for mistakes that a user can mend; it is free of torch so that every floor may raise it."""


class BadInput(Exception):
    """A user's mistake, as one sentence: which file, record or field, what is wrong with it, and what to do.

    The command line prints the sentence and exits non-zero; a Dagster step fails with it and is not retried.
    """
