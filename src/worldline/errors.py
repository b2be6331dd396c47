"""Everything that can go wrong for a user, each as one sentence that ends with what to do.

Raised anywhere, caught once: in the command line, which prints the sentence and exits with code 2.
"""


class WorldlineError(Exception):
    """Base of all errors that a user can act on."""


class InputError(WorldlineError):
    """The input (a path, an option, a value) cannot be used as it is."""


class FormatError(InputError):
    """A file is not what its name or its header says it is."""


class MissingObservation(WorldlineError):
    """An engine needs something (depth, tracks, ...) that was neither given nor could be made."""


class MissingWeights(WorldlineError):
    """A network was asked for whose weights are not on this machine."""


class LicenceError(WorldlineError):
    """The licence of some weights forbids the use that was asked for."""


class SolveFailed(WorldlineError):
    """An optimisation could not produce a usable result from this input."""


class OutputError(WorldlineError):
    """A result cannot be written where it was asked for."""
