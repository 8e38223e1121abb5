"""The one exception that means "the user can put this right"."""


class UserError(Exception):
    """One sentence: what is wrong, what was found, what to do.

    The command line prints it and leaves with exit code 2; a page shows it in a red box.
    """

    def __init__(self, sentence: str):
        # What cannot be shown, such as the bytes of a file's name that are no text, is spelt out.
        super().__init__(sentence.encode("utf-8", "backslashreplace").decode())
