"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """One sentence: what is wrong, what was found, what to do.

    The command line prints it and leaves with exit code 2; a page shows it in a red box.
    """
