"""The one kind of error a person can mend."""


class UserError(ValueError):
    """What was given, what is allowed, and what to do instead, in one clear sentence.

    The command line prints the sentence alone and exits with code 2.
    """
