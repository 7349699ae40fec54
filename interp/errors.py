"""Errors of the library: each message gives the numbers and the fix."""


class InterpError(Exception):
    """Base of every error that the library raises on purpose."""


class PointError(InterpError):
    """A hook point does not exist, never fired, or cannot be read or edited as asked."""


class StoreError(InterpError):
    """An activation store is missing, damaged, incomplete or does not fit the disk."""


class InputError(InterpError):
    """An argument or a user's file has the wrong shape, dtype, range or content."""


class SAEError(InterpError):
    """A sparse autoencoder does not fit the activations, or its files are damaged."""
