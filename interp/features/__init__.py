"""What each latent of a sparse autoencoder does: `describe` reads the store once, in order."""

from interp.features.record import Features
from interp.features.summary import describe

__all__ = ["Features", "describe"]
