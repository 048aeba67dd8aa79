"""What a person asked for that cannot be done."""


class UserError(ValueError):
    """A request that cannot be fulfilled; the message says why and what to do."""
